"""A real browser without a window: Debian's chromium, or whatever is installed of its kind."""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
for (const kind of ["error", "warn"]) console[kind] = (...said) => problems.push(said.join(" "));
</script>"""


def visit(page: Path, script: str, *options: str) -> dict[str, Any]:
    """Open a page, run a script in it, and return what that put into `outcome`.

    Args:
        page: An HTML file.
        script: Runs once the page's own scripts have; fills the object `outcome`.
        options: Of the browser.

    Returns:
        The outcome, with `problems`: errors and warnings of the page.
    """
    program = os.environ.get("BROWSER_FOR_TESTS") or next(filter(None, map(shutil.which, NAMES)), None)
    assert program, "the page is tested in a browser: install chromium, or name one in BROWSER_FOR_TESTS"
    said = "outcome.problems = problems; const out = document.createElement('pre'); out.id = 'outcome';"
    said += "out.textContent = JSON.stringify(outcome); document.body.append(out);"
    watched = page.with_name("watched.html")
    text = page.read_text().replace("<head>", f"<head>{WATCH}", 1)
    watched.write_text(f"{text}<script>const outcome = {{}}; {script}; {said}</script>")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    command += [*options, "--dump-dom", watched.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="outcome">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, "the script did not run to its end"
    outcome: dict[str, Any] = json.loads(unescape(found[1]))
    return outcome
