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
from cmu_lightning.errors import UserError
from cmu_lightning.escaping import csv_file_name
from cmu_lightning.files import write_atomically
from cmu_lightning.unlearning.networks import build, evaluation_mode
from cmu_lightning.unlearning.stage import View
from cmu_lightning.unlearning.unlearner import Unlearner

WARM, WITNESS, REPAIR = 1.0, 0.5, 0.8
"""Steps of the warm-up, of the witness's training and of the repair, in T = `procedure.unlearn_steps`."""
WARM_RATE = 4.0
"""Learning rate of the warm-up and of the witness, in peak rates of the procedure."""
LOOKS = 4
"""Looks at the training samples on the way."""
SHARE = 0.125
"""Largest share of S_f in a batch where it cannot be told apart."""
SMALL = 1e-6


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
    """Positive-unlabelled repair: find further manipulated samples, then train with "the given label or another one".

    It uses no clean labels and no validation samples, and takes 2.3 T steps, T being `procedure.unlearn_steps`:
      1. Warm up: the original is trained on all of S_tr as labelled, for T steps at four times the peak rate. That
         undoes memorisation, and S_f and hidden S_m stay alike. Four times, the features of the training samples with
         S_f's given labels are recorded (a look).
      2. Suspect: positive-unlabelled probes on these looks give each sample of S_f's classes a probability q of being
         manipulated (`cmu_lightning.data.discoveries.positive_unlabelled`).
      3. Train a witness: a fresh network, for 0.5 T steps with the weights 1 - q, so on the samples that are not
         suspected. If it prefers a sample's given label by a margin m, that label is probably right although the sample
         is manipulated, as for an image of the target class with a trigger. The label keeps the weight m.
      4. Repair: 0.8 T steps on all of S_tr with the loss `given_or_else`, w = (1 - m) q, at a rate that rises and
         falls to zero. It starts between the original and the warmed-up network, the closer to the latter the
         more S_f's labels were forgotten in the warm-up: a trigger survives it, memorised labels do not. Halfway, q is
         updated with the network's predictions. Where S_f cannot be separated from clean samples, q is small and S_f
         gets up to an eighth of the loss.

    It writes `suspects.csv`: the probability that each training sample is manipulated, and the label that the network
    suggests.

    Args:
        kwargs: `network`, `procedure`, `original` and `seed`, as of every unlearner.
    """

    view: ClassVar[View] = "train"
    averages: ClassVar[bool] = False
    stops_early: ClassVar[bool] = False
    resumes = ("looks", "weight", "alternatives", "probability", "kept", "confidence", "share", "beginning")
    keeps = ("found",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.looks: list[dict[str, Any]] = []
        """What each `Look` holds, as plain data."""
        self.weight: Tensor | None = None
        """w of every sample of S_tr, shape (N,), and q of it while the witness is trained; None while warming up."""
        self.alternatives = torch.empty(0)
        """log a of every sample of S_f's classes, shape (n, num_classes)."""
        self.probability = torch.empty(0, dtype=torch.double)
        """q of every sample of S_f's classes, shape (n,)."""
        self.kept = torch.empty(0, dtype=torch.double)
        """Weight that given labels keep however suspicious they are, of every sample of S_f's classes, shape (n,)."""
        self.confidence = torch.empty(0, dtype=torch.double)
        """How far S_f can be told apart, from 0 to 1, of every sample of S_f's classes, shape (n,)."""
        self.beginning: dict[str, Tensor] = {}
        """Weights that the repair starts from, while the witness is trained."""
        self.share = 0.0
        """Share of the loss that S_f gets beyond its place in the batches; 0 for none."""
        self.found: dict[str, float] = {}
        """Precision and recall of the suspects, where S_m is known and the run is at its end."""

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return self.until_repair + self._share_of_t(REPAIR)

    @property
    def until_repair(self) -> int:
        """Steps of the warm-up and of the witness."""
        return self._share_of_t(WARM) + self._share_of_t(WITNESS)

    def _share_of_t(self, share: float) -> int:
        """Return a number of steps, at least 1."""
        return max(1, round(share * self.procedure.unlearn_steps))

    def start(self, original: nn.Module) -> None:
        """Start from the original; keep its weights and its predictions for the samples of S_f's classes."""
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
        """Return procedure A's optimiser: a constant rate, then twice one that rises and falls to zero."""
        optimizer = self.procedure.optimizer(self.network.parameters())
        warm, begins = self._share_of_t(WARM), self.until_repair
        rising = self._share_of_t(0.1)

        def risen_and_fallen(done: int, steps: int) -> float:
            return min(1.0, (done + 1) / rising) * (1 - done / steps)

        def rate(step: int) -> float:
            if step < warm:
                return WARM_RATE
            if step < begins:
                return WARM_RATE * risen_and_fallen(step - warm, begins - warm)
            return risen_and_fallen(step - begins, self.steps - begins)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}}

    def train_dataloader(self) -> PairedBatches:
        """Return batches of all of S_tr, each with one of S_f in a repair that gives it a share."""
        size, deleted = self.procedure.batch_size, self.data.samples.deleted
        main = self._batches(torch.ones_like(deleted), size, self.seed)
        known = self._batches(deleted, round(SHARE * size) or 1, derive_seed(self.seed, 2))
        return PairedBatches(main, known, self._shares)

    def _shares(self, step: int) -> bool:
        """Return whether S_f has a share of its own in the loss of a step."""
        return bool(self.share) and step >= self.until_repair

    def _batches(self, mask: Tensor, size: int, seed: int) -> TrainingBatches:
        source = self.data.training_source(mask, size, seed)
        return self.data.training_batches([source], [0] * self.steps, done=lambda: self.trainer.global_step)

    def training_step(self, batch: tuple[Batch, Batch | None], batch_idx: int) -> Tensor:  # type: ignore[override]
        """Return the loss of a step; where S_f gets a share of its own, its batch counts too."""
        main, known = batch
        if known is None:
            self.factor = torch.ones(len(main.label), device=self.device)
            return super().training_step(main, batch_idx)
        both = main.joined(known)
        # Sample losses are averaged over both batches: factors give S_f its share of that mean.
        factors = (1 - self.share) * both.total / main.total, self.share * both.total / known.total
        self.factor = torch.cat(
            [
                torch.full((len(each.label),), factor, device=self.device)
                for each, factor in zip((main, known), factors, strict=True)
            ]
        )
        return super().training_step(both, batch_idx)

    def on_train_start(self) -> None:
        """Start the clock; what every step reads lies on the device, so that none waits for it."""
        super().on_train_start()
        self._move()

    def _move(self) -> None:
        """Move the weights of the loss to the device."""
        self.position, self.alternatives = self.position.to(self.device), self.alternatives.to(self.device)
        self.weight = None if self.weight is None else self.weight.to(self.device)

    def on_train_batch_start(self, batch: tuple[Batch, Batch | None], batch_idx: int) -> None:
        """Look, suspect, hear the witness and correct at the steps where a phase ends."""
        warm, step = self._share_of_t(WARM), self.global_step
        if step in {max(1, warm * number // LOOKS) for number in range(1, LOOKS + 1)}:
            self.looks.append(self._look()._asdict())
        if step == warm:
            self._suspect()
        if step == self.until_repair:
            self._hear_witness()
        if step == self.until_repair + self._share_of_t(REPAIR / 2):
            self._correct()

    def loss(self, batch: Batch) -> Tensor:
        """Return cross-entropy for the warm network and the witness, and `given_or_else` while repairing."""
        logits = self.network(batch.image)
        if self.weight is None:
            return cross_entropy(logits, batch.label, reduction="none")
        rows = batch.train_index
        weight = self.weight[rows]
        if self.global_step < self.until_repair:
            return cross_entropy(logits, batch.label, reduction="none") * (1 - weight)
        alternatives = self.alternatives[self.position[rows]]
        return given_or_else(logits.float(), batch.label, weight, alternatives) * self.factor

    def on_train_end(self) -> None:
        """Stop the clock, and leave the suspects and how well they agree with S_m."""
        super().on_train_end()
        self.found = self._agreement()
        logits = self.logits(self.network, self._questions())
        if self.trainer.is_global_zero:
            write_atomically(self.place / "suspects.csv", self._as_csv(logits))

    def _agreement(self) -> dict[str, float]:
        """Return precision and recall of the suspects over 1/2 that were not known; none where there is no S_m."""
        manipulated = self.data.samples.manipulated.cpu()
        hidden, suspected = manipulated & ~self.data.samples.deleted.cpu(), torch.zeros_like(manipulated)
        suspected[self.rows] = (self.probability > 0.5) & ~self.known
        right = int((hidden & suspected).sum())
        measured = {"suspect_precision": (right, suspected), "suspect_recall": (right, hidden)}
        if not manipulated.any():
            return {}
        return {name: count / int(among.sum()) for name, (count, among) in measured.items() if among.any()}

    def _metrics(self) -> dict[str, float]:
        """Return the metrics of every stage, and how well the suspects agree with S_m."""
        return super()._metrics() | self.found

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

    # ---- Looks and what follows from them ----

    def _questions(self, rows: Tensor | None = None) -> Evaluation:
        """Return samples of S_f's classes, by default all, as they are trained on but not augmented."""
        rows = self.rows if rows is None else rows
        everywhere = torch.ones(len(rows), dtype=torch.bool)
        labels = self.data.samples.given_labels.cpu()[rows]
        return of_samples(self.data.samples, rows, {"given": (labels, everywhere)})

    def _look(self) -> Look:
        """Return the current network's view of the samples of S_f's classes, the same on every process.

        Process r of N shows every N-th sample from r on; the last ones repeat the last sample, so that all have as
        many.
        """
        total, rank, processes = len(self.rows), self.trainer.global_rank, self.trainer.world_size
        own = self.rows[torch.arange(-(-total // processes) * processes).clamp(max=total - 1)[rank::processes]]
        batches = EvaluationBatches(self._questions(own), self.data.pixels(), rank=0, world_size=1)
        images: Iterator[Tensor] = (batch.image for batch in batches)

        def gather(part: Tensor) -> Tensor:  # of shape (n, d) into (n N, d), in the order of the samples
            joined: Tensor = self.all_gather(part)  # type: ignore[assignment]
            return joined.transpose(0, 1).flatten(0, 1)

        self.samples_forward += total
        forward = self.trainer.precision_plugin.forward_context()
        with evaluation_mode(self.network), forward, self.without_autotuning():
            shown = look(self.network, images, gather if processes > 1 else None)
        if not (shown.logits.isfinite().all() and shown.activations.isfinite().all()):
            raise UserError(
                "PURE's warm-up diverged, and the network's outputs are not finite: give trainer.gradient_clip_val, or "
                f"a lower procedure.lr, of which the warm-up takes {WARM_RATE:g} times"
            )
        return Look(shown.logits[:total], shown.activations[:total], shown.sizes)

    def _suspect(self) -> None:
        """End the warm-up: judge every sample, keep what the repair starts from, and begin with a fresh network."""
        looks = [Look(**each) for each in self.looks]
        found = suspect(looks, self.labels, self.known)
        self.probability, self.confidence = found.probability, found.confidence

        # What S_f's labels lost while warming up was memory; a learned trigger loses nothing.
        now = torch.stack([self._of_given(each.logits.softmax(1))[self.known].mean() for each in looks]).mean()
        fit = self._of_given(self.believed)[self.known].mean()
        forgot = float((1 - now / fit.clamp(min=SMALL)).clamp(min=0))
        self.beginning = {
            name: self.initial[name].lerp(values.cpu(), forgot)
            for name, values in self.network.state_dict().items()
            if values.is_floating_point()
        }

        # Other classes count alike where S_f can be told apart, else as the original believes in them.
        others = self.believed.scatter(1, self.labels.unsqueeze(1), 0.0)
        relative = (others / others.amax(1, keepdim=True).clamp(min=1e-12)).clamp(min=SMALL)
        doubt = (1 - found.confidence).float()
        self.alternatives = (doubt.unsqueeze(1) * relative.log()).scatter(1, self.labels.unsqueeze(1), -torch.inf)
        share = min(SHARE, float(doubt.sum()) / len(self.position))
        self.share = share if share > int(self.known.sum()) / len(self.position) else 0.0
        self.looks = []
        self._weigh(self.probability)
        self._continue_from(build(self.make_network, derive_seed(self.seed, 3)).state_dict())

    def _hear_witness(self) -> None:
        """Let given labels keep what the witness says for them, and begin with the repair."""
        beliefs = self._beliefs()
        given = self._of_given(beliefs)
        others = beliefs.scatter(1, self.labels.unsqueeze(1), 0.0).amax(1)
        self.kept = (given - others).clamp(min=0).double()
        # Where S_f cannot be told apart, neither can a witness say who of it is right.
        self.kept[self.known] *= self.confidence.mean()
        self._weigh(self.probability * (1 - self.kept))
        self._continue_from(self.beginning)
        self.beginning = {}

    def _correct(self) -> None:
        """Correct each probability by what the network predicts for the sample now.

        This is Bayes' rule, with a likelihood ratio that counts as far as S_f can be told apart: a network that lets go
        of a class would otherwise make ever more of its samples suspicious.
        """
        beliefs = self._beliefs()
        given = self._of_given(beliefs).double().clamp(min=1e-12).log()
        other = (beliefs.clamp(min=1e-12).log() + self.alternatives.cpu()).logsumexp(1).double()
        q = torch.sigmoid(self.probability.logit() + self.confidence * (other - given))
        self.probability = torch.where(self.known, torch.ones_like(q), q)
        self._weigh(self.probability * (1 - self.kept))

    def _beliefs(self) -> Tensor:
        """Return the class probabilities of the samples of S_f's classes, shape (n, num_classes)."""
        self.samples_forward += len(self.rows)
        with evaluation_mode(self.network):
            return self.logits(self.network, self._questions()).softmax(1)

    def _of_given(self, beliefs: Tensor) -> Tensor:
        """Return what beliefs, shape (n, num_classes), say about the given labels."""
        return beliefs.gather(1, self.labels.unsqueeze(1)).squeeze(1)

    def _weigh(self, weight: Tensor) -> None:
        """Set the weights of the loss; samples of other classes keep their labels."""
        self.weight = torch.full((len(self.position),), SMALL)
        self.weight[self.rows] = weight.clamp(SMALL, 1 - 1e-4).float()
        self._move()

    @torch.no_grad()
    def _continue_from(self, state: dict[str, Tensor]) -> None:
        """Put other weights into the network, without the momentum of those before."""
        for name, values in self.network.state_dict().items():
            if values.is_floating_point():
                values.copy_(state[name])
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()
