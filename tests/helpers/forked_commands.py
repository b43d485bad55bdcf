"""Python commands as processes of their own, which fork from one that has imported what takes seconds."""

import multiprocessing
import os
import runpy
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple


class Ended(NamedTuple):
    """Of a command: its exit code and what it said."""

    code: int
    out: str
    err: str


def ran(command: str) -> Ended:
    """A command as a reader types it in the current folder: `python FILE` or `python -m MODULE`, and arguments."""
    python, *words = shlex.split(command)
    assert python == "python"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cmu_lightning.cli.fit"])
    with TemporaryDirectory() as place:
        said = [f"{place}/{name}" for name in ("out", "err")]
        process = context.Process(target=_work, args=(words, str(Path.cwd()), dict(os.environ), said))
        process.start()
        process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode, *(Path(path).read_text() for path in said))


def _work(words: list[str], folder: str, environment: dict[str, str], said: list[str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(said, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.path.insert(0, folder)
    is_module = words[0] == "-m"
    sys.argv = words[is_module:]
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
