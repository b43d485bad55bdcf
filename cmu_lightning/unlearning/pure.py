"""PURE: positive-unlabelled repair, a method of this project that repairs triggers and swapped labels alike."""

import csv
import io
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from cmu_lightning.data import Batch
from cmu_lightning.data.batches import EvaluationBatches, PairedBatches, TrainingBatches
from cmu_lightning.data.discoveries.looks import look
from cmu_lightning.data.discoveries.positive_unlabelled import Look, suspect
from cmu_lightning.data.evaluation import Evaluation, of_samples
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.escaping import csv_file_name
from cmu_lightning.files import write_atomically
from cmu_lightning.unlearning.stage import RECORD, View
from cmu_lightning.unlearning.unlearner import Unlearner

WARM_RATE = 4.0
"""Learning rate while the original is warmed up again, in peak rates of the procedure."""
LOOKS = 4
"""Looks at the training samples on the way."""
LET_GO = 0.3
"""Weight that the given label keeps however suspicious a sample is."""
SHARE = 0.125
"""Largest share of S_f in a batch where it cannot be told apart."""
SMALL = 1e-6
STATE = ("alternatives", "probability", "let_go", "share")
"""What travels in the checkpoint of a repair."""


def given_or_else(logits: Tensor, labels: Tensor, weight: Tensor, alternatives: Tensor) -> Tensor:
    """Return -log((1 - w) p(given) + w sum over c of a(c) p(c)) of each sample.

    With w = 0 it is cross-entropy. With w = 1 and a = 1 for every other class it is -log(1 - p(given)): anything but
    the given label. In between its gradient vanishes where image and label agree, so such a sample is let go.

    Args:
        logits: Shape (n, num_classes).
        labels: Given labels, shape (n,).
        weight: w, how far a given label is not believed, in [0, 1), shape (n,).
        alternatives: log a(c), shape (n, num_classes); -inf for the given class.

    Returns:
        Shape (n,).
    """
    logs = logits.log_softmax(1)
    given = logs.gather(1, labels.unsqueeze(1)).squeeze(1)
    other = (logs + alternatives).logsumexp(1)
    return -torch.logaddexp(torch.log1p(-weight) + given, weight.log() + other)


class PURE(Unlearner):
    """Positive-unlabelled repair: find what else is manipulated, then train on "the given label or something else".

    It uses no clean labels and no validation samples, and takes 2 T steps, T being `procedure.unlearn_steps`:
      1. Warm up: the original is trained on all of S_tr as labelled, for T steps at four times the peak rate. That
         undoes memorisation, and S_f and hidden S_m stay alike. On the way it is shown the training samples four times.
      2. Suspect: positive-unlabelled probes on these looks give each sample of S_f's classes a probability q of being
         manipulated (`cmu_lightning.data.discoveries.positive_unlabelled`).
      3. Start over: from the original where S_f's labels were not forgotten while warming up, as those of a trigger,
         and from the warm network as far as they were, as memorised ones.
      4. Repair: T steps on all of S_tr with the loss `given_or_else`, w = 0.7 q, at a rate that rises and falls to
         zero. Half-way, q is corrected by what the network now says of each sample. Where S_f cannot be told apart from
         clean samples, given labels say little, and S_f gets up to an eighth of the loss.

    It leaves `suspects.csv`: how likely each training sample is manipulated, and which label the network suggests.

    Args:
        kwargs: `network`, `procedure`, `original` and `seed`, as of every unlearner.
    """

    view: ClassVar[View] = "train"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.looks: list[Look] = []
        self.weight: Tensor | None = None
        """w of every sample of S_tr, shape (N,); None while warming up."""
        self.alternatives = torch.empty(0)
        """log a of every sample of S_f's classes, shape (n, num_classes)."""
        self.probability = torch.empty(0, dtype=torch.double)
        """q of every sample of S_f's classes, shape (n,)."""
        self.let_go = torch.empty(0, dtype=torch.double)
        """Weight that given labels keep, of every sample of S_f's classes, shape (n,)."""
        self.share = 0.0
        """Share of the loss that S_f gets beyond its place in the batches; 0 for none."""

    @property
    def steps(self) -> int:
        """Steps of both phases."""
        return 2 * self.procedure.unlearn_steps

    def start(self, original: nn.Module) -> None:
        """Start from the original; keep its weights and what it says of the samples of S_f's classes."""
        super().start(original)
        samples = self.data.samples
        labels, deleted = samples.given_labels.cpu(), samples.deleted.cpu()
        self.rows = torch.nonzero(torch.isin(labels, torch.unique(labels[deleted]))).flatten()
        self.labels, self.known = labels[self.rows], deleted[self.rows]
        self.position = torch.zeros(len(labels), dtype=torch.long)
        self.position[self.rows] = torch.arange(len(self.rows))
        self.initial = {name: values.clone() for name, values in original.state_dict().items()}
        self.believed = self.logits(original, self._questions()).softmax(1)
        self.samples_forward += len(self.rows)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return procedure A's optimiser at a constant rate, then at one that rises and falls to zero."""
        optimizer = self.procedure.optimizer(self.network.parameters())
        half = self.procedure.unlearn_steps

        def rate(step: int) -> float:
            if step < half:
                return WARM_RATE
            done = step - half
            return min(1.0, (done + 1) / max(1, half // 10)) * (1 - done / half)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}}

    def train_dataloader(self) -> PairedBatches:
        """Return batches of all of S_tr, each with one of S_f, of which only a repair that needs it makes use."""
        size, deleted = self.procedure.batch_size, self.data.samples.deleted
        parts = (
            (torch.ones_like(deleted), size, self.seed),
            (deleted, round(SHARE * size) or 1, derive_seed(self.seed, 2)),
        )
        return PairedBatches(*(self._batches(*part) for part in parts))

    def _batches(self, mask: Tensor, size: int, seed: int) -> TrainingBatches:
        source = self.data.training_source(mask, size, seed)
        return self.data.training_batches([source], [0] * self.steps, done=lambda: self.trainer.global_step)

    def training_step(self, batch: tuple[Batch, Batch], batch_idx: int) -> Tensor:  # type: ignore[override]
        """Return the loss of a step; where S_f gets a share of its own, its batch counts too."""
        main, known = batch
        if not self.share:
            self.factor = torch.ones(len(main.label), device=self.device)
            return super().training_step(main, batch_idx)
        both = main.joined(known)
        # Sample losses are averaged over both batches: factors give S_f its share of that mean.
        factors = (1 - self.share) * both.total / main.total, self.share * both.total / known.total
        self.factor = torch.cat(
            [
                torch.full((len(each.label),), factor, device=self.device)
                for each, factor in zip(batch, factors, strict=True)
            ]
        )
        return super().training_step(both, batch_idx)

    def on_train_batch_start(self, batch: tuple[Batch, Batch], batch_idx: int) -> None:
        """Look, suspect and start over at the steps where a phase ends."""
        half, step = self.procedure.unlearn_steps, self.global_step
        if step in {max(1, half * number // LOOKS) for number in range(1, LOOKS + 1)}:
            self.looks.append(self._look())
        if step == half:
            self._suspect()
        if step == half + max(1, half // 2):
            self._correct()

    def loss(self, batch: Batch) -> Tensor:
        """Return cross-entropy while warming up, and `given_or_else` while repairing."""
        logits = self.network(batch.image)
        if self.weight is None:
            return cross_entropy(logits, batch.label, reduction="none")
        rows = batch.train_index.cpu()
        alternatives = self.alternatives[self.position[rows]].to(self.device)
        losses = given_or_else(logits.float(), batch.label, self.weight[rows].to(self.device), alternatives)
        return losses * self.factor

    def on_train_end(self) -> None:
        """Stop the clock, and leave the suspects."""
        super().on_train_end()
        logits = self.logits(self.network, self._questions())
        if self.trainer.is_global_zero:
            write_atomically(self.place / "suspects.csv", self._as_csv(logits))

    def _as_csv(self, logits: Tensor) -> str:
        """Return every training sample, the most suspicious first; only samples of S_f's classes can be suspicious."""
        data, labels = self.data, self.data.samples.given_labels.cpu()
        probability, suggested = torch.zeros(len(labels), dtype=torch.double), labels.clone()
        probability[self.rows] = self.probability
        suggested[self.rows] = logits.scatter(1, self.labels.unsqueeze(1), -torch.inf).argmax(1)
        stored = torch.nonzero(~data.held).flatten().tolist()  # positions in the training split as it is stored
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["index" if data.names is None else "name", "given_label", "probability", "suggested_label"])
        for row in probability.argsort(descending=True, stable=True).tolist():
            name = stored[row] if data.names is None else data.names[stored[row]]
            suspicious = probability[row] > 0
            written = f"{probability[row]:.4f}", int(suggested[row]) if suspicious else ""
            writer.writerow([csv_file_name(name), int(labels[row]), *written])
        return text.getvalue()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the looks have shown so far, or what followed from them."""
        super().on_save_checkpoint(checkpoint)
        if "optimizer_states" in checkpoint:  # a run that can go on
            checkpoint[RECORD]["pure"] = {
                "looks": [each._asdict() for each in self.looks],
                "weight": self.weight,
                **{name: getattr(self, name) for name in STATE},
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take that up again."""
        super().on_load_checkpoint(checkpoint)
        if stored := checkpoint[RECORD].get("pure"):
            self.looks = [Look(**each) for each in stored["looks"]]
            self.weight = stored["weight"]
            for name in STATE:
                setattr(self, name, stored[name])

    # ---- Looks and what follows from them ----

    def _questions(self) -> Evaluation:
        """Return the samples of S_f's classes as they are trained on but not augmented."""
        everywhere = torch.ones(len(self.rows), dtype=torch.bool)
        return of_samples(self.data.samples, self.rows, {"given": (self.labels, everywhere)})

    def _look(self) -> Look:
        """Return what the network as it is now shows of the samples of S_f's classes."""
        batches = EvaluationBatches(self._questions(), self.data.pixels(), rank=0, world_size=1)
        images: Iterator[Tensor] = (batch.image for batch in batches)
        self.samples_forward += len(self.rows)
        self.network.eval()
        try:
            with self.trainer.precision_plugin.forward_context(), self.without_autotuning():
                return look(self.network, images)
        finally:
            self.network.train()

    def _suspect(self) -> None:
        """End the warm-up: judge every sample, and start the repair."""
        found = suspect(self.looks, self.labels, self.known)
        self.probability = found.probability

        # What S_f's labels lost while warming up was memory; a learned trigger loses nothing.
        def fit(beliefs: Tensor) -> Tensor:
            return beliefs.gather(1, self.labels.unsqueeze(1)).squeeze(1)[self.known].mean()

        now = torch.stack([fit(each.logits.softmax(1)) for each in self.looks]).mean()
        forgot = float((1 - now / fit(self.believed).clamp(min=SMALL)).clamp(min=0))
        with torch.no_grad():
            for name, values in self.network.state_dict().items():
                if values.is_floating_point():
                    values.mul_(forgot).add_(self.initial[name].to(values.device), alpha=1 - forgot)
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()  # momentum of the warm-up

        # Other classes count alike where S_f can be told apart, else as the original believes in them.
        others = self.believed.scatter(1, self.labels.unsqueeze(1), 0.0)
        relative = (others / others.amax(1, keepdim=True).clamp(min=1e-12)).clamp(min=SMALL)
        doubt = (1 - found.confidence).float()
        self.alternatives = (doubt.unsqueeze(1) * relative.log()).scatter(1, self.labels.unsqueeze(1), -torch.inf)
        self.let_go = torch.full((len(self.rows),), LET_GO, dtype=torch.double)
        self.let_go[self.known] = LET_GO * float(found.confidence.mean())
        share = min(SHARE, float(doubt.sum()) / len(self.position))
        self.share = share if share > int(self.known.sum()) / len(self.position) else 0.0
        self.looks = []
        self._weigh()

    def _correct(self) -> None:
        """Correct each probability by what the network says of the sample now, by Bayes' rule."""
        logs = self.logits(self.network, self._questions()).log_softmax(1)
        self.network.train()
        self.samples_forward += len(self.rows)
        given = logs.gather(1, self.labels.unsqueeze(1)).squeeze(1).exp().double()
        other = (logs + self.alternatives).logsumexp(1).exp().double()
        q = self.probability
        q = q * other / (q * other + (1 - q) * given + 1e-12)
        self.probability = torch.where(self.known, torch.ones_like(q), q)
        self._weigh()

    def _weigh(self) -> None:
        """Turn probabilities into the weights of the loss; samples of other classes keep their labels."""
        self.weight = torch.full((len(self.position),), SMALL)
        self.weight[self.rows] = (self.probability * (1 - self.let_go)).clamp(SMALL, 1 - 1e-4).float()
