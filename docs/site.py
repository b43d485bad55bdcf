"""What the documentation site does with a page: links to sources become text, formulas become MathML."""

import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")
BLOCK = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
CODE_OR_FORMULA = re.compile(
    r"(?P<code>`[^`\n]+`)|\$\$(?P<block>.+?)\$\$|(?<![\w$\\])\$(?! )(?P<inline>[^$\n]+?)\$(?!\w)", re.DOTALL
)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Translate what a repository's host shows and a site cannot: links out of `docs`, and formulas.

    Args:
        markdown: Text of the page.
        page: Page of the site.
        config: Configuration of the site.
        files: All files of the site.

    Returns:
        Text whose links lead to pages of the site.

    Raises:
        FileNotFoundError: A link leads to a file that the repository does not have.
    """
    docs, place = Path(config["docs_dir"]), Path(page.file.abs_src_path)
    source = place
    if included := re.fullmatch(r'--8<-- "([\w.]+)"\s*', markdown):  # a file of the root, whose links start there
        source = docs.parent / included[1]
        markdown = source.read_text()

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found[3].partition("#")
        path = (source.parent / target).resolve()
        if path.parent == docs.parent and (docs / path.name.lower()).exists():  # a page includes this file of the root
            path = docs / path.name.lower()
        if not path.exists():
            raise FileNotFoundError(f"{source}: the link to {found[3]} leads nowhere: correct it")
        shown = path.is_relative_to(docs) and path.is_file() and path.suffix in (".md", ".png", ".svg", ".ipynb")
        if not shown:
            return found[2]
        return f"{found[1]}[{found[2]}]({os.path.relpath(path, place.parent)}{'#' if anchor else ''}{anchor})"

    def formula(found: re.Match[str]) -> str:
        if found["code"]:
            return found["code"]
        return convert((found["block"] or found["inline"]).strip(), display="block" if found["block"] else "inline")

    # Neither links nor formulas are looked for in blocks of code.
    blocks = [found[0] for found in BLOCK.finditer(markdown)]
    text = LINK.sub(link, CODE_OR_FORMULA.sub(formula, BLOCK.sub("\0", markdown)))
    return re.sub("\0", lambda _: blocks.pop(0), text)
