"""Progress of a stage: a bar in a terminal, lines in a log file."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from rich import get_console
from rich.markup import escape

from cmu_lightning.console import time_left

T = TypeVar("T")


def progress() -> "StageProgress | StageLines":
    """Return the callback for the standard output: a bar for a terminal, lines for a file."""
    return StageProgress(refresh_rate=10) if get_console().is_terminal else StageLines()


def track_parts(trainer: Trainer, parts: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Return the parts of one long step, with their progress shown if the trainer has a progress callback of this file.

    Args:
        trainer: Trainer that runs the step.
        parts: What the step iterates over.
        description: Text next to the bar.
        total: Largest possible number of parts.
    """
    bar: Any = trainer.progress_bar_callback
    return bar.track(parts, description, total) if isinstance(bar, StageProgress | StageLines) else iter(parts)


class StageProgress(RichProgressBar):
    """A bar over the steps of a stage, labelled with the stage's name."""

    def _get_train_description(self, current_epoch: int) -> str:
        return type(self.trainer.lightning_module).__name__

    def track(self, parts: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Yield the parts of a step, with a separate bar until the last part or an early end of the iteration.

        Args:
            parts: What the step iterates over.
            description: Text next to the bar.
            total: Largest possible number of parts.
        """
        if not self.is_enabled or self.progress is None:
            yield from parts
            return
        bar = self._add_task(total, escape(description))
        try:
            for part in parts:
                yield part
                self.progress.advance(bar)
                self.refresh()
        finally:
            # Hidden, not removed: Lightning addresses its own bars by their numbers.
            self.progress.update(bar, visible=False)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics next to the bar, without the logger's version number.

        Args:
            trainer: Trainer that runs the stage.
            pl_module: The stage.
        """
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class StageLines(ProgressBar):
    """Lines in a log file with the step, the curves and the remaining time.

    Args:
        seconds: Shortest time between two lines, in seconds.
    """

    def __init__(self, seconds: float = 30) -> None:
        super().__init__()
        self.seconds = seconds
        self.enabled = True

    def disable(self) -> None:
        """Print nothing; Lightning calls this on all processes except rank 0."""
        self.enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the estimate of the remaining time, at the first step of a resumed run."""
        self._restart(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line with step and curves if one is due."""
        if self._is_due():
            curves = [f", {name} {value:.3f}" for name, value in trainer.progress_bar_metrics.items()]
            self._print(type(pl_module).__name__, batch_idx + 1, int(trainer.num_training_batches), "".join(curves))

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Restart the estimate of the remaining time at the first batch of each evaluation."""
        if batch_idx == 0:
            self._restart(0)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line with the batch if one is due."""
        if self._is_due():
            self._print("Testing", batch_idx + 1, int(trainer.num_test_batches[dataloader_idx]))

    def track(self, parts: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Yield the parts of a step, and print a line after a part if one is due.

        Args:
            parts: What the step iterates over.
            description: Text at the start of a line.
            total: Largest possible number of parts.
        """
        self._restart(0)
        for done, part in enumerate(parts, start=1):
            yield part
            if self._is_due():
                self._print(description, done, total)

    def _restart(self, done: int) -> None:
        self.first, self.started_at = done, time.monotonic()
        self.printed_at = self.started_at

    def _is_due(self) -> bool:
        return self.enabled and time.monotonic() - self.printed_at >= self.seconds

    def _print(self, description: str, done: int, total: int, curves: str = "") -> None:
        self.printed_at = time.monotonic()
        left = time_left(self.printed_at - self.started_at, done - self.first, total - done)
        print(f"{description}: {done} of {total}{curves}, {left} left", flush=True)
