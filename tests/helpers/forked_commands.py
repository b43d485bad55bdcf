"""Python commands as processes of their own, which fork from one process that has imported what takes seconds."""

import multiprocessing
import os
import runpy
import shlex
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple


class Ended(NamedTuple):
    """Exit code of a command, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str


def fork_context() -> ForkServerContext:
    """Return the context whose processes begin with torch, Lightning and this package imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cmu_lightning.cli.fit"])
    return context


def run_command(command: str) -> Ended:
    """Run a command as a reader types it in the current folder.

    Args:
        command: `python FILE` or `python -m MODULE`, and arguments.
    """
    python, *words = shlex.split(command)
    assert python == "python"
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start_command(words, out, err)
        process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode, out.read_text(), err.read_text())


def start_command(words: Sequence[str], out: Path, err: Path) -> ForkServerProcess:
    """Start a command in the current folder and environment; whoever starts it sees to its end.

    Args:
        words: `FILE` or `-m`, `MODULE`, and arguments.
        out: File for standard output.
        err: File for standard error; it may be the same.
    """
    process = fork_context().Process(target=_work, args=(words, str(Path.cwd()), dict(os.environ), out, err))
    process.start()
    return process


def redirect_output(out: Path, err: Path) -> None:
    """Write standard output and standard error of this process, and of those it starts, to files.

    Args:
        out: File for standard output.
        err: File for standard error; it may be the same.
    """
    for number, path in enumerate((out, err), start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)


def _work(words: Sequence[str], folder: str, environment: dict[str, str], out: Path, err: Path) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    redirect_output(out, err)
    sys.path.insert(0, folder)
    is_module = words[0] == "-m"
    sys.argv = [*words[is_module:]]
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
