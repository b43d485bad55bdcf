"""What went wrong, kept until it goes right."""

import signal
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cmu_lightning.files import write_json
from cmu_lightning.sweep.points import Point

KIND = "failed"
LINES = 20


@dataclass(frozen=True)
class Failure:
    """A point whose run failed."""

    point: Point
    code: int
    """Exit code; negative for a signal."""
    lines: list[str]
    """The last ones it wrote."""

    @property
    def reason(self) -> str:
        """One line."""
        if self.code < 0:
            return f"its process was ended by {signal.Signals(-self.code).name}, twice"
        errors = [line for line in self.lines if "error" in line.lower()]
        return (errors or self.lines or [f"exit code {self.code}"])[-1]


def log_of(point: Point) -> Path:
    """Where a run's output goes."""
    return point.file("logs", "log")


def record(point: Point, code: int) -> Failure:
    """Keep a failed run's last lines."""
    text = log_of(point).read_text(errors="replace") if log_of(point).exists() else ""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-LINES:]
    write_json(point.file(KIND), {"arguments": point.arguments, "code": code, "lines": lines})
    return Failure(point, code, lines)


def has_failed(point: Point) -> bool:
    """Whether its last run failed."""
    return point.file(KIND).exists()


def forget(point: Point) -> None:
    """It went right."""
    for path in (point.file(KIND), log_of(point)):
        path.unlink(missing_ok=True)


def show(failures: list[Failure]) -> None:
    """A table of what failed."""
    runs_dir = failures[0].point.runs_dir
    table = Table(title=f"{len(failures)} failed; their last lines are in {runs_dir}/.sweep/failed", show_lines=True)
    table.add_column("run", overflow="fold")
    table.add_column("why", overflow="fold")
    for failure in failures:
        table.add_row(str(failure.point), failure.reason)
    Console(stderr=True).print(table)
