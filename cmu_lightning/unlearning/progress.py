"""How far a stage is: a bar in a terminal, lines in a log file."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from rich import get_console

from cmu_lightning.console import time_left

T = TypeVar("T")


def progress() -> "StageProgress | StageLines":
    """What suits the standard output."""
    return StageProgress(refresh_rate=10) if get_console().is_terminal else StageLines()


class StageProgress(RichProgressBar):
    """A bar over the steps of a stage, under its name."""

    def _get_train_description(self, current_epoch: int) -> str:
        return type(self.trainer.lightning_module).__name__

    def track(self, parts: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Parts of a step, with a bar of their own until the last of them or whoever asks for them is done."""
        if not self.is_enabled or self.progress is None:
            yield from parts
            return
        bar = self._add_task(total, description)
        try:
            for part in parts:
                yield part
                self.progress.advance(bar)
                self.refresh()
        finally:
            self.progress.update(bar, visible=False)  # Lightning counts on the numbers of those that are there

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Without the version number of a logger's."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class StageLines(ProgressBar):
    """A line now and then: which step it is, the curves, and the time left.

    Args:
        seconds: Between two lines.
    """

    def __init__(self, seconds: float = 30) -> None:
        super().__init__()
        self.seconds = seconds
        self.enabled = True

    def disable(self) -> None:
        """On all processes but one."""
        self.enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step that a resume begins with."""
        self._begin(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step further."""
        if self._is_due():
            curves = [f", {name} {value:.3f}" for name, value in trainer.progress_bar_metrics.items()]
            self._say(type(pl_module).__name__, batch_idx + 1, int(trainer.num_training_batches), "".join(curves))

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Each evaluation begins anew."""
        if batch_idx == 0:
            self._begin(0)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """One batch further."""
        if self._is_due():
            self._say("Testing", batch_idx + 1, int(trainer.num_test_batches[dataloader_idx]))

    def track(self, parts: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Parts of a step."""
        self._begin(0)
        for done, part in enumerate(parts, start=1):
            yield part
            if self._is_due():
                self._say(description, done, total)

    def _begin(self, done: int) -> None:
        self.first, self.begun = done, time.monotonic()
        self.said = self.begun

    def _is_due(self) -> bool:
        return self.enabled and time.monotonic() - self.said >= self.seconds

    def _say(self, what: str, done: int, total: int, curves: str = "") -> None:
        self.said = time.monotonic()
        left = time_left(self.said - self.begun, done - self.first, total - done)
        print(f"{what}: {done} of {total}{curves}, {left} left", flush=True)
