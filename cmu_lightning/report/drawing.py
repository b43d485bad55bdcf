"""Figures as PNG, SVG and PDF files, which are drawn again only if their content has changed."""

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path
from textwrap import wrap
from typing import Any

from cmu_lightning.files import write_atomically
from cmu_lightning.report.appearance import THEMES
from cmu_lightning.report.figures import Figure

ENDINGS = ("png", "svg", "pdf")
MARK = "cmu_lightning picture of "
"""Start of the mark inside each file; the digest of the content follows."""

LONGEST = 80


def file_name(said: str) -> str:
    """Return a name in letters, digits, `_`, `.`, `=` and `-`; a long one is cut and ends with a digest of the whole.

    Args:
        said: Any text.
    """
    name = re.sub(r"[^\w.=-]+", "_", said).strip("_")
    digest = hashlib.sha256(said.encode()).hexdigest()[:8]
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{digest}"


def draw(figure: Figure, spec: dict[str, Any], setting: str, path: Path, paper: bool) -> bool:
    """Write a figure's files, and return whether they had to be drawn.

    Args:
        figure: The figure.
        spec: Its specification.
        setting: Its subject, for the title.
        path: Path of the files, without suffix.
        paper: Whether it is for a paper: serif, and neither title nor note.
    """
    titled = spec if paper else spec | {"title": _title(figure, setting, spec)}
    theme = THEMES["paper" if paper else "light"]
    shown = json.dumps([titled, theme, Path(__file__).read_text()], sort_keys=True)
    mark = MARK + hashlib.sha256(shown.encode()).hexdigest()[:16]
    files = {ending: path.with_name(f"{path.name}.{ending}") for ending in ENDINGS}
    if all(file.exists() and mark.encode() in file.read_bytes() for file in files.values()):
        return False
    import vl_convert

    svg = vl_convert.vegalite_to_svg(titled, config=theme)
    made = {
        "svg": svg.replace(">", f"><desc>{mark}</desc>", 1).encode(),
        "png": _with_text(vl_convert.svg_to_png(svg, scale=2), mark),
        "pdf": vl_convert.svg_to_pdf(svg) + f"\n% {mark}\n".encode(),
    }
    for ending, content in made.items():
        write_atomically(files[ending], content)
    return True


def _title(figure: Figure, setting: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return title and note in lines as wide as the figure."""
    wide = 1000 if "facet" in spec else spec.get("width", 440) + 140
    return {
        "text": wrap(f"{setting}: {figure.title}", wide // 8),
        "subtitle": wrap(figure.note, wide // 6),
    }


def _with_text(png: bytes, text: str) -> bytes:
    """Return a PNG file with a text chunk before its last one."""
    body = b"tEXt" + b"Description\0" + text.encode("latin-1")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = png.rindex(b"IEND") - 4
    return png[:end] + chunk + png[end:]


def remove_stale(folder: Path, current: set[Path]) -> None:
    """Delete figures of earlier reports whose runs no longer exist.

    Args:
        folder: Holds all figures.
        current: Those of this report, without suffixes.
    """
    for file in folder.rglob("*"):
        if file.suffix[1:] in ENDINGS and file.with_suffix("") not in current and is_figure(file):
            file.unlink()


def is_figure(file: Path) -> bool:
    """Return whether a report has drawn a file.

    Args:
        file: Any file.
    """
    return file.suffix[1:] in ENDINGS and MARK.encode() in file.read_bytes()
