"""What the dampening methods share: importances kept beside the original, and one multiplication."""

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from math import isfinite, log
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cmu_lightning.data.batches import FullPasses, TrainingBatches
from cmu_lightning.errors import UserError
from cmu_lightning.files import write_atomically
from cmu_lightning.unlearning.fisher import fisher_diagonal
from cmu_lightning.unlearning.importance import ImportanceFile, as_text, batch_importance, flat, task_loss
from cmu_lightning.unlearning.networks import check_outputs, tensors_digest
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.progress import StageLines, StageProgress
from cmu_lightning.unlearning.stage import View
from cmu_lightning.unlearning.unlearner import Unlearner

HISTOGRAM = np.linspace(-6, 12, 73)
"""Edges of the bins for decimal logarithms of ratios."""


def informative(deleted: Tensor, retain: Tensor) -> Tensor:
    """Which parameters the importances say anything of, bool."""
    return deleted.isfinite() & retain.isfinite() & ((deleted != 0) | (retain != 0))


def selected(deleted: Tensor, retain: Tensor, selection: float) -> Tensor:
    """Whose ratio is over the threshold, bool; compared as a ratio, so that a threshold that is one is not over it."""
    return informative(deleted, retain) & (deleted / retain > selection)


def factors(deleted: Tensor, retain: Tensor, selection: float, dampening: float) -> Tensor:
    """What each parameter is multiplied by: min(dampening I_D / I_f, 1) where I_f > selection I_D, elsewhere 1.

    Args:
        deleted: I_f, over S_f.
        retain: I_D, over the retain data.
        selection: Threshold on the ratio of both; the paper's alpha.
        dampening: The paper's gamma.
    """
    chosen = selected(deleted, retain, selection)
    return torch.where(chosen, (dampening * retain / deleted).clamp(max=1), 1)


def ratios(deleted: Tensor, retain: Tensor) -> Tensor:
    """I_f / I_D of the parameters for which it is finite, ascending."""
    values = (deleted / retain)[informative(deleted, retain)]
    return values[values.isfinite()].sort().values


def percentile(ascending: Tensor, percent: float) -> float:
    """The value that so many percent are below, interpolated; unlike torch's, of any number of elements.

    Raises:
        UserError: There is none.
    """
    if not len(ascending):
        raise UserError("no parameter has importances that are finite and not zero: look at the original's weights")
    place = percent / 100 * (len(ascending) - 1)
    low = int(place)
    below, above = ascending[low].item(), ascending[min(low + 1, len(ascending) - 1)].item()
    return below + (above - below) * (place - low)


def percent(share: float) -> float:
    """Which percentile of the ratios is the threshold (ASSD: Schoepf et al., 2024, arXiv 2402.10098).

    Args:
        share: Share of the samples that is to be forgotten; in a search (PTN) it also goes beyond 1.
    """
    return 100 - log(1 + 100 * share)


def histogram(deleted: Tensor, retain: Tensor) -> dict[str, list[float] | list[int]]:
    """How many ratios lie where, by decimal logarithm (the paper's Figure 3).

    Those beyond are in the last bins, infinite ones too; a ratio of zero is in none.
    """
    values = (deleted / retain)[informative(deleted, retain)]
    logarithms = values[values > 0].log10().clamp(HISTOGRAM[0], HISTOGRAM[-1]).cpu().numpy()
    counts, edges = np.histogram(logarithms, HISTOGRAM)
    return {"log10_edges": edges.tolist(), "counts": counts.tolist()}


T = TypeVar("T")


class Dampener(Unlearner):
    """Multiplies down what of the original matters more to S_f than to the retain data; one step, no training.

    Importances depend on the original, on S_f and on how they are estimated, but on nothing that is tuned; so they
    are computed once and kept beside the original.

    Args:
        network: Constructor of the network, the same as the original's.
        procedure: Procedure A; only its batch size matters here: importances are of batches of that size.
        original: Checkpoint of the original.
        seed: Without effect, unless `augment` is on.
        fisher: Squared gradients of each `batch` as in released code, or of each `sample`: the exact diagonal.
        augment: Whether importances are of shuffled and augmented samples, as in the paper's released code.
    """

    view: ClassVar[View] = "passes"
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
        fisher: Literal["batch", "sample"] = "batch",
        augment: bool = False,
    ) -> None:
        super().__init__(network, procedure, original, seed)
        if fisher == "sample" and type(self).measure is not Dampener.measure:
            raise UserError(f"fisher=sample is of squares, which {type(self).__name__} does not measure: give batch")
        self.fisher, self.augment = fisher, augment
        self.summary: dict[str, Any] = {}
        """A histogram of importance ratios, the threshold, and how many parameters were selected or left alone."""

    def setup(self, stage: str) -> None:
        """Keep an image's logits, by which importances of a network with other arguments are told apart.

        Raises:
            UserError: The method does not choose.
        """
        if type(self).choose is Dampener.choose:  # a LightningModule has no abstract methods
            raise UserError(
                f"{type(self).__name__} has no choose, which gives the threshold and the strength: define it"
            )
        super().setup(stage)
        if stage == "fit":
            self.first_logits = check_outputs(self.network, self.data)

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What importances differentiate, of each sample, shape (n,): the loss."""
        return task_loss(logits, labels)

    def measure(self, gradient: Tensor) -> Tensor:
        """What they take of a gradient: its square."""
        return gradient.square()

    def estimator(self) -> list[Any]:
        """What tells importances of other kinds apart: what both do to some numbers, for they may have parameters."""
        weights, classes = len(self.values), self.first_logits.shape[1]
        logits = torch.linspace(-1, 2, 3 * classes, device=self.device).view(3, classes)
        values = self.objective(logits, torch.arange(3, device=self.device) % classes)
        measured = self.measure(torch.linspace(-1, 1, weights, device=self.device))[:: weights // 100 + 1]
        return [self.fisher, as_text(values), as_text(measured)]

    @abstractmethod
    def choose(self, deleted: Tensor, retain: Tensor) -> tuple[float, float]:
        """The threshold for selection and the strength of dampening.

        Args:
            deleted: Importances over S_f, shape (number of parameters,).
            retain: Importances over the retain data.
        """

    def training_step(self, batch: FullPasses, batch_idx: int) -> None:  # type: ignore[override]
        """Importances, then the multiplication."""
        self.network.eval()
        self.values = flat(self.network.parameters()).detach().clone()
        with torch.autocast(self.device.type, enabled=False):
            deleted, retain = self.importances(batch)
            selection, dampening = self.choose(deleted, retain)
        self.dampen(factors(deleted, retain, selection, dampening))
        self.summary |= {
            "selected": int(selected(deleted, retain, selection).sum()),
            "selection": selection if isfinite(selection) else None,
        }
        if self.folder and self.trainer.is_global_zero:
            write_atomically(self.folder / "importance_ratios.json", json.dumps(self.summary) + "\n")

    @torch.no_grad()
    def dampen(self, factor: Tensor) -> None:
        """Give every parameter the original's value times its factor."""
        parameters = list(self.network.parameters())
        parts = torch.split_with_sizes(self.values * factor, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))

    def tracked(self, parts: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Parts of the one step, with their progress.

        Args:
            parts: What the step goes through.
            description: What they are, beside the bar.
            total: How many there are, at most.
        """
        bar: Any = self.trainer.progress_bar_callback
        shown = isinstance(bar, StageProgress | StageLines)
        return bar.track(parts, description, total) if shown else iter(parts)

    def importances(self, passes: FullPasses) -> tuple[Tensor, Tensor]:
        """Over S_f and over the retain data; computed by the first who needs them."""
        strategy = self.trainer.strategy
        stored = self._stored()
        self.stop_clock()  # to wait for another process is no work of this one
        with ExitStack() as held:
            content: dict[str, Any] | None = None
            if self.trainer.is_global_zero:
                held.enter_context(stored.locked())
                content = stored.read()
            content = strategy.broadcast(content)
            self.start_clock()
            if content is not None:
                self.seconds_before += content["seconds"]  # what was measured when they were made
            else:
                content = self._computed(passes)
                if self.trainer.is_global_zero:
                    stored.write(content)
        self.samples_forward += content["samples"]
        self.samples_backward += content["samples"]
        self.summary = content["summary"]
        return content["deleted"].to(self.device), content["retain"].to(self.device)

    def _stored(self) -> ImportanceFile:
        """Where importances of exactly this kind are."""
        data, batch_size = self.data, self.procedure.batch_size
        samples, manipulation = data.samples, data.manipulation
        of = {
            "original": tensors_digest(self.network.state_dict()),
            "data": [data.fingerprint, type(manipulation).__name__, vars(manipulation)],
            "samples": tensors_digest(
                {"labels": samples.given_labels, "manipulated": samples.manipulated, "deleted": samples.deleted}
            ),
            "network": [repr(self.network), as_text(self.first_logits)],
            "normalised": [data.mean, data.std],
            "estimator": self.estimator(),
            "batch_size": batch_size if self.fisher == "batch" else None,
            "augmented": [self.seed, data.padding, data.flip] if self.augment else None,
        }
        folder = Path(str(self.original)).parent / "importances"
        return ImportanceFile(folder, of, {"deleted", "retain", "samples", "seconds", "summary"})

    def _computed(self, passes: FullPasses) -> dict[str, Any]:
        begin = time.perf_counter()
        deleted = self.importance(passes.deleted, "importances over S_f")
        retain = self.importance(passes.retain, "importances over the retain data")
        return {
            "deleted": deleted.cpu(),
            "retain": retain.cpu(),
            "samples": len(self.data.samples.given_labels),
            "seconds": time.perf_counter() - begin,
            "summary": histogram(deleted, retain) | {"left_alone": int((~informative(deleted, retain)).sum())},
        }

    def importance(self, batches: TrainingBatches, description: str) -> Tensor:
        """One importance, shape (number of parameters,), the same on every process.

        Args:
            batches: One pass.
            description: Beside the progress bar.
        """
        shown = self.tracked(batches, description, len(batches))
        total = partial(self.trainer.strategy.reduce, reduce_op="sum")
        if self.fisher == "sample":
            return fisher_diagonal(self.network, shown, self.objective, total)
        return batch_importance(self.network, shown, self.objective, self.measure, total)
