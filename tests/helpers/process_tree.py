"""Processes of the system by their numbers, as Linux tells of them."""

from pathlib import Path


def children(process: int) -> list[int]:
    """Return the processes that a process has started and that have not ended.

    Args:
        process: Its number.
    """
    paths = Path(f"/proc/{process}/task").glob("*/children")
    return [child for path in paths for child in map(int, path.read_text().split()) if is_running(child)]


def is_running(process: int) -> bool:
    """Return whether a process has not ended; one that nobody has asked for its exit code has.

    Args:
        process: Its number.
    """
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(process: int) -> str:
    """Return the words of a process, with zeros between them; nothing if it has ended.

    Args:
        process: Its number.
    """
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
