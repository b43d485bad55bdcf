"""What an HTML page carries within it, so that it needs no other file and no network."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from cmu_lightning.files import write_atomically
from cmu_lightning.report.appearance import THEMES

HERE = Path(__file__).parent


class Embedded(NamedTuple):
    """The texts of a page's style, scripts and data, each ready to stand between its tags.

    Args:
        style: Style sheet.
        script: Script that draws the figures.
        vega: Vega, Vega-Lite and Vega-Embed.
        data: The figures' specifications and the themes, as JSON.
    """

    style: str
    script: str
    vega: str
    data: str


def embed(figures: Sequence[dict[str, Any]], style: Path | None = None) -> Embedded:
    """Return what a page with some figures carries.

    Args:
        figures: Specifications of the figures, in the order of their numbers on the page.
        style: A style sheet of the page's own, after that of all pages.
    """
    content = {"figures": figures, "themes": {name: THEMES[name] for name in ("light", "dark")}}
    # "<" inside a script could end it.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    own = "" if style is None else style.read_text()
    return Embedded((HERE / "page.css").read_text() + own, (HERE / "page.js").read_text(), vega(), data)


def vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script.

    Bundling them takes seconds, so the script is kept in the user's cache, with a digest that is checked.
    """
    import vl_convert

    versions = "-".join(
        (vl_convert.get_vega_version(), vl_convert.get_vegalite_versions()[-1], version("vl-convert-python"))
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmu_lightning" / f"vega-{versions}.js"
    try:
        digest, _, script = cache.read_text().partition("\n")
        if digest == f"// {hashlib.sha256(script.encode()).hexdigest()}":
            return script
    except (OSError, ValueError):
        pass
    # "</script" inside a script would end it.
    bundle = str(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub lacks the default
    script = bundle.replace("</script", "<\\/script")
    with suppress(OSError):  # a cache that cannot be written costs time, not the report
        write_atomically(cache, f"// {hashlib.sha256(script.encode()).hexdigest()}\n{script}")
    return script
