"""A real browser without a window: Debian's chromium, or whatever is installed of its kind."""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = (
    "there is no browser to open the page of a report in: install chromium (`make browser` does, as root on Debian and "
    "Ubuntu), or name the program of one in BROWSER_FOR_TESTS"
)

QUIET = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
"""Nothing is asked of a network; a page that needs one has problems."""

DRAWN = """
const drawn = async () => {
  const root = document.documentElement;
  const pause = () => new Promise((done) => setTimeout(done, 20));
  while (root.dataset.theme && root.dataset.drawn !== root.dataset.theme) await pause();
};
"""

WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
for (const kind of ["error", "warn"]) console[kind] = (...said) => problems.push(said.join(" "));
</script>"""


def find_browser() -> str:
    """Return the program of a browser.

    Without one the test is skipped with a sentence on how to get one, and fails where CI is set.
    """
    program = os.environ.get("BROWSER_FOR_TESTS") or next(filter(None, map(shutil.which, NAMES)), None)
    if program:
        return program
    if os.environ.get("CI"):
        pytest.fail(MISSING)
    pytest.skip(MISSING)


def visit(page: Path, script: str, *options: str) -> dict[str, Any]:
    """Open a page, run a script in it, and return what the script put into `outcome`.

    Args:
        page: An HTML file.
        script: JavaScript that runs once the page has drawn its figures, which its element `html` says by `data-drawn`.
            It may wait with `await`, also for `drawn()` after it has changed the theme, and fills the object `outcome`.
        options: Options of the browser.

    Returns:
        The outcome, with `problems`: errors and warnings of the page.
    """
    program = find_browser()
    said = "outcome.problems = problems; const out = document.createElement('pre'); out.id = 'outcome';"
    said += "out.textContent = JSON.stringify(outcome); document.body.append(out);"
    watched = page.with_name("watched.html")
    text = page.read_text().replace("<head>", f"<head>{WATCH}", 1)
    run = f"(async () => {{ await drawn(); {script}; }})().catch((error) => problems.push(String(error)))"
    watched.write_text(f"{text}<script>const outcome = {{}}; {DRAWN} {run}.then(() => {{ {said} }});</script>")
    with TemporaryDirectory() as profile:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", *QUIET]
        command += [*options, "--virtual-time-budget=60000", "--dump-dom", watched.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = re.search(r'<pre id="outcome">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, "the script did not run to its end"
    outcome: dict[str, Any] = json.loads(unescape(found[1]))
    return outcome
