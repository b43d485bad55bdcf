"""The machinery of dampening methods: importances stored with the original, one multiplication, a histogram."""

import json
import time
from abc import abstractmethod
from contextlib import ExitStack
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.data.batches import FullPasses, TrainingBatches
from cmu_lightning.errors import UserError
from cmu_lightning.files import write_atomically
from cmu_lightning.unlearning.fisher import fisher_diagonal
from cmu_lightning.unlearning.importance import (
    ImportanceFile,
    batch_importance,
    flat,
    informative,
    rounded_text,
    task_loss,
)
from cmu_lightning.unlearning.networks import check_outputs, tensors_digest
from cmu_lightning.unlearning.progress import track_parts
from cmu_lightning.unlearning.stage import View
from cmu_lightning.unlearning.unlearner import Unlearner

HISTOGRAM = np.linspace(-6, 12, 73)
"""Edges of the histogram's bins, in decimal logarithms of I_f / I_r."""


class Dampening(NamedTuple):
    """The effect of a method on the network's P parameters.

    `factors` (P,) is what each parameter is multiplied by, `selected` (P,) is a bool mask of the parameters that the
    method chose, some of which may keep a factor of 1, and `selection` is the threshold on I_f / I_r that it used, NaN
    for none. The last two are only recorded.
    """

    factors: Tensor
    selected: Tensor
    selection: float


def histogram(deleted: Tensor, retain: Tensor) -> dict[str, list[float] | list[int]]:
    """Return the bin edges and counts of log10(I_f / I_r) over informative parameters (the paper's Figure 3).

    Ratios beyond the edges are in the outermost bins, infinite ones too; a ratio of zero is in none.

    Args:
        deleted: I_f, importances over S_f, shape (P,).
        retain: I_r, importances over the retain data, shape (P,).
    """
    values = (deleted / retain)[informative(deleted, retain)]
    logarithms = values[values > 0].log10().clamp(HISTOGRAM[0], HISTOGRAM[-1]).cpu().numpy()
    counts, edges = np.histogram(logarithms, HISTOGRAM)
    return {"log10_edges": edges.tolist(), "counts": counts.tolist()}


class Dampener(Unlearner):
    """Base of methods that scale down the parameters that matter more to S_f than to the retain data.

    One step, no training: the importances I_f over S_f and I_r over the retain data are estimated with the original in
    evaluation mode, `choose` turns them into one factor per parameter, and the parameters are multiplied. Importances
    depend on the original, on S_f and on the estimator, but on no hyperparameter: they are computed once and stored
    next to the original. Of `procedure` only the batch size has an effect, and `seed` only where `augment` is on.

    A method defines `choose`; importances are defined by `objective` and `measure`, by default the squared gradient of
    the loss.

    Args:
        fisher: Squared gradients of the mean over each `batch`, as in released code, or of each `sample`: the exact
            diagonal of the Fisher information, which turns SSD into SSD-Det (arXiv 2510.26714, appendix B).
        augment: Whether importances use shuffled and augmented samples, as in the paper's released code.
    """

    view: ClassVar[View] = "passes"
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"

    def __init__(
        self, *args: Any, fisher: Literal["batch", "sample"] = "batch", augment: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if fisher == "sample" and type(self).measure is not Dampener.measure:
            raise UserError(
                f"fisher=sample needs squared gradients, which {type(self).__name__} does not measure: give batch"
            )
        self.fisher, self.augment = fisher, augment
        self.summary: dict[str, Any] = {}
        """Content of `importance_ratios.json`: histogram, threshold, how many parameters were selected or kept."""

    def setup(self, stage: str) -> None:
        """Keep the logits of one image: they distinguish networks that differ in an argument but not in their weights.

        Args:
            stage: Lightning's name of what is run, such as "fit".

        Raises:
            UserError: The class does not define `choose`.
        """
        if type(self).choose is Dampener.choose:  # a LightningModule has no abstract methods
            raise UserError(f"{type(self).__name__} has no choose, which gives the factor of each parameter: define it")
        super().setup(stage)
        if stage == "fit":
            self.first_logits = check_outputs(self.network, self.data)

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the value of each sample that importances differentiate: the loss, shape (n,).

        Args:
            logits: Outputs of the network, shape (n, num_classes).
            labels: Labels as given, int64, shape (n,).
        """
        return task_loss(logits, labels)

    def measure(self, gradient: Tensor) -> Tensor:
        """Return the function of a gradient that importances average: its square, element by element.

        Args:
            gradient: Gradient of the objective, shape (P,); `self.values` holds the parameters in the same order.
        """
        return gradient.square()

    @abstractmethod
    def choose(self, deleted: Tensor, retain: Tensor) -> Dampening:
        """Return the factor of each parameter.

        Args:
            deleted: I_f, importances over S_f, shape (P,).
            retain: I_r, importances over the retain data, shape (P,).
        """

    def training_step(self, batch: FullPasses, batch_idx: int) -> None:  # type: ignore[override]
        """Estimate both importances, choose the factors, multiply the parameters and record the result.

        Args:
            batch: One pass over S_f and one over the retain data.
            batch_idx: Always 0.
        """
        # Evaluation mode: batch norm uses the statistics of training, so a sample's gradient does not depend on others.
        self.network.eval()
        self.values = flat(self.network.parameters()).detach().clone()
        # 32 bits: squares of small gradients vanish in 16.
        with torch.autocast(self.device.type, enabled=False):
            deleted, retain = self.importances(batch)
            dampening = self.choose(deleted, retain)
        self.dampen(dampening.factors)
        self.summary |= {
            "selected": int(dampening.selected.sum()),
            "selection": dampening.selection if isfinite(dampening.selection) else None,
        }
        if self.folder and self.trainer.is_global_zero:
            write_atomically(self.folder / "importance_ratios.json", json.dumps(self.summary) + "\n")

    @torch.no_grad()
    def dampen(self, factors: Tensor) -> None:
        """Set every parameter to the original's value times its factor; a second call undoes the first.

        Args:
            factors: Factor of each parameter, shape (P,).
        """
        parameters = list(self.network.parameters())
        parts = torch.split_with_sizes(self.values * factors, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))

    def importances(self, passes: FullPasses) -> tuple[Tensor, Tensor]:
        """Return I_f and I_r, each of shape (P,), on every process: from their file, or computed and kept there.

        Args:
            passes: One pass over S_f and one over the retain data.
        """
        file = self._importance_file()
        self.stop_clock()  # waiting for another process does not count as work
        with ExitStack() as lock:
            # Rank 0 checks and locks the file until it is written; the other ranks follow its finding.
            content: dict[str, Any] | None = None
            if self.trainer.is_global_zero:
                lock.enter_context(file.locked())
                content = file.read()
            content = self.trainer.strategy.broadcast(content)
            self.start_clock()
            if content is None:
                content = self._computed(passes)
                if self.trainer.is_global_zero:
                    file.write(content)
            else:
                # Reused work counts with the time that it took originally.
                self.seconds_before += content["seconds"]
        self.samples_forward += content["samples"]
        self.samples_backward += content["samples"]
        self.summary = content["summary"]
        return content["deleted"].to(self.device), content["retain"].to(self.device)

    def importance(self, batches: TrainingBatches, description: str) -> Tensor:
        """Return one importance, shape (P,), the same on every process.

        Args:
            batches: One pass over the samples.
            description: Text next to the progress bar.
        """
        shown = track_parts(self.trainer, batches, description, len(batches))
        total = partial(self.trainer.strategy.reduce, reduce_op="sum")
        if self.fisher == "sample":
            return fisher_diagonal(self.network, shown, self.objective, total)
        return batch_importance(self.network, shown, self.objective, self.measure, total)

    def _computed(self, passes: FullPasses) -> dict[str, Any]:
        """Return the content of the importances' file, computed now."""
        begin = time.perf_counter()
        with self.without_autotuning():
            deleted = self.importance(passes.deleted, "importances over S_f")
            retain = self.importance(passes.retain, "importances over the retain data")
        return {
            "deleted": deleted.cpu(),
            "retain": retain.cpu(),
            "samples": len(self.data.samples.given_labels),
            "seconds": time.perf_counter() - begin,
            "summary": histogram(deleted, retain) | {"left_alone": int((~informative(deleted, retain)).sum())},
        }

    def _importance_file(self) -> ImportanceFile:
        """Return the file of the importances for exactly this original, S_f, data and estimator."""
        data, samples, manipulation = self.data, self.data.samples, self.data.manipulation
        masks = {"labels": samples.given_labels, "manipulated": samples.manipulated, "deleted": samples.deleted}
        depends_on = {
            "original": tensors_digest(self.network.state_dict()),
            "data": [data.fingerprint, type(manipulation).__name__, vars(manipulation)],
            "samples": tensors_digest(masks),
            "network": [repr(self.network), rounded_text(self.first_logits)],
            "normalised": [data.mean, data.std],
            "estimator": [self.fisher, *self._estimator_probe()],
            "batch_size": self.procedure.batch_size if self.fisher == "batch" else None,
            "augmented": [self.seed, data.padding, data.flip] if self.augment else None,
        }
        folder = Path(str(self.original)).parent / "importances"
        return ImportanceFile(folder, depends_on, {"deleted", "retain", "samples", "seconds", "summary"})

    def _estimator_probe(self) -> list[list[str]]:
        """Return what `objective` and `measure` do to fixed numbers: subclasses may change them or their parameters."""
        classes, size = self.first_logits.shape[1], len(self.values)
        logits = torch.linspace(-1, 2, 3 * classes, device=self.device).view(3, classes)
        values = self.objective(logits, torch.arange(3, device=self.device) % classes)
        measured = self.measure(torch.linspace(-1, 1, size, device=self.device))[:: size // 100 + 1]
        return [rounded_text(values), rounded_text(measured)]
