"""What went wrong, kept until it goes right."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from rich.console import Console
from rich.table import Table

from cmu_lightning.files import write_json
from cmu_lightning.sweep.points import Point

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
            return f"its process was ended by {Signals(-self.code).name}, twice"
        errors = [line for line in self.lines if "error" in line.lower()]
        return (errors or self.lines or [f"exit code {self.code}"])[-1]


def log_of(point: Point, runs_dir: Path) -> Path:
    """Where a run's output goes."""
    return runs_dir / ".sweep" / "logs" / f"{point.key}.log"


def _record(point: Point, runs_dir: Path) -> Path:
    return runs_dir / ".sweep" / "failed" / f"{point.key}.json"


def record(point: Point, code: int, runs_dir: Path) -> Failure:
    """Keep a failed run's last lines."""
    text = log_of(point, runs_dir).read_text(errors="replace") if log_of(point, runs_dir).exists() else ""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-LINES:]
    content = {"arguments": point.arguments, "code": code, "lines": lines}
    write_json(_record(point, runs_dir), content)
    return Failure(point, code, lines)


def has_failed(point: Point, runs_dir: Path) -> bool:
    """Whether its last run failed."""
    return _record(point, runs_dir).exists()


def forget(point: Point, runs_dir: Path) -> None:
    """It went right."""
    for path in (_record(point, runs_dir), log_of(point, runs_dir)):
        with suppress(FileNotFoundError):
            path.unlink()


def show(failures: list[Failure], runs_dir: Path) -> None:
    """A table of what failed."""
    table = Table(title=f"{len(failures)} failed; their last lines are in {runs_dir}/.sweep/failed", show_lines=True)
    table.add_column("run", overflow="fold")
    table.add_column("why", overflow="fold")
    for failure in failures:
        table.add_row(str(failure.point), failure.reason)
    Console(stderr=True).print(table)
