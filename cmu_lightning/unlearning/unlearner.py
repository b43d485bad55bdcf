"""The base class of all unlearners, which start from an original and fine-tune it."""

import math
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cmu_lightning.data import Batch
from cmu_lightning.data.batches import EvaluationBatches
from cmu_lightning.data.evaluation import Evaluation
from cmu_lightning.data.validation import check_deletion_set
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.checkpoint import load_network, read_original
from cmu_lightning.unlearning.networks import check_outputs, is_finite, warn_of_probabilities
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.stage import RECORD, Stage


class Unlearner(Stage):
    """U(M_o, S_tr, S_f): starts from the original's weights and is fine-tuned for `procedure.unlearn_steps`.

    A method overrides `view`, `loss`, and `start` if it takes more from the original than its weights.

    Args:
        network: Constructor of the network, the same as the original's.
        procedure: Procedure A, by which the network is fine-tuned.
        original: The original's weights: a run's `last.ckpt`, another checkpoint with a `state_dict`, a plain state
            dict, or a `.safetensors` file. By default, the command line finds the setting's original or trains it.
        seed: Seed of everything random in this method; S_m and S_f have separate seeds.
        original_prefix: Prefix of the keys of the original's weights, such as `student`, in a file that holds
            several networks or other parts; detected by default.
        original_key: Key of the original's weights in its file, `a.b` for one within another; detected by default.

    Example:
        >>> from functools import partial
        >>> from cmu_lightning.models import ResNet9
        >>> class Finetuned(Unlearner):
        ...     view = "retain"
        >>> Finetuned(partial(ResNet9, num_classes=10), Procedure(unlearn_steps=50), "original.ckpt").steps
        50
    """

    unlearns: ClassVar[bool] = True
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "unlearn_steps"

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
        original_prefix: str | None = None,
        original_key: str | None = None,
    ) -> None:
        super().__init__(network, procedure, seed)
        self.original, self.original_prefix, self.original_key = original, original_prefix, original_key

    def prepare(self) -> None:
        """Load the original, let a detector inspect it, start from it, and keep its predictions on S_f.

        Raises:
            UserError: There is no usable original or nothing to unlearn, or `start` changes the labels.
        """
        data, original = self.data, self.load_original()
        self.samples_forward += data.detect(original)
        check_deletion_set(data.samples.deleted)
        # A method starts on the CPU, where its own network is; a detector may have moved the original.
        original.cpu()
        labels = data.samples.given_labels.clone()
        self.start(original)
        if not torch.equal(labels, data.samples.given_labels):
            raise UserError(
                f"{type(self).__name__} changes the labels of the data, by which it is measured: keep a copy, and "
                "index it by batch.train_index"
            )
        self.reference = self.classes(original, data.all_deleted())
        original.cpu()

    def start(self, original: nn.Module) -> None:
        """Take the method's start from the original; by default its weights.

        Args:
            original: The original in evaluation mode, on the CPU.
        """
        self.network.load_state_dict(original.state_dict())

    def load_original(self) -> nn.Module:
        """Return the original, in evaluation mode, if it was trained on exactly this manipulation.

        Raises:
            UserError: There is none, or it is damaged, unfinished, diverged, or of other data.
        """
        data, path = self.data, self.original
        if path is None:
            raise UserError(f"{type(self).__name__} needs the checkpoint of an original: give it as `original`")
        checkpoint = read_original(path, self.original_key)
        record = checkpoint.get(RECORD)
        if record and "optimizer_states" in checkpoint and checkpoint["global_step"] < record.get("steps", math.inf):
            raise UserError(f"{path} belongs to an unfinished run: let it finish, then use it as the original")
        original = load_network(self.make_network(), checkpoint, path, self.original_prefix)
        if not is_finite(original):
            raise UserError(f"the original {path} has weights that are not finite: give one that did not diverge")
        # A run of this project records its training data; foreign weights do not.
        recorded = checkpoint.get(type(data).__qualname__)
        difference = data.difference(recorded) if recorded else "another data set" if RECORD in checkpoint else None
        if difference:
            raise UserError(f"the original {path} was trained on {difference}: use an original of this setting")
        check_outputs(original, data)
        warn_of_probabilities(original, data)
        return original.eval()

    @staticmethod
    def has_statistics(batch: Batch) -> bool:
        """Return whether batch norm can normalise a batch by its own statistics, the same on every process.

        It takes two samples: on GPUs, where processes share statistics, in the global batch, on CPUs in every slice.

        Args:
            batch: This process's slice of the global batch.
        """
        is_apart = batch.image.device.type == "cpu" and dist.is_available() and dist.is_initialized()
        return batch.total >= 2 * (dist.get_world_size() if is_apart else 1)

    def classes(self, network: nn.Module, evaluation: Evaluation) -> Tensor:
        """Return predicted classes, the same on every process.

        Args:
            network: Network to evaluate.
            evaluation: Samples to classify, such as `self.data.all_deleted()`.

        Returns:
            Shape (n,), int64, on the CPU.
        """
        return torch.cat([outputs.argmax(dim=1) for outputs in self._outputs(network, evaluation)]).cpu()

    def accuracies(self, evaluation: Evaluation) -> Tensor:
        """Return the accuracies of the current network, the same on every process.

        Its forward passes are part of the method, and counted.

        Args:
            evaluation: Samples to classify, and what each accuracy counts as right.

        Returns:
            Shape (D,), float64, on the CPU.
        """
        self.samples_forward += len(evaluation.rows)
        right = self.classes(self.network, evaluation).unsqueeze(1) == evaluation.target
        return (right & evaluation.domain).sum(0).double() / evaluation.domain.sum(0)

    def logits(self, network: nn.Module, evaluation: Evaluation) -> Tensor:
        """Return logits, the same on every process.

        Args:
            network: Network to evaluate.
            evaluation: Samples to classify.

        Returns:
            Shape (n, num_classes), float32, on the CPU.
        """
        return torch.cat([outputs.float() for outputs in self._outputs(network, evaluation)]).cpu()

    @torch.no_grad()
    def _outputs(self, network: nn.Module, evaluation: Evaluation) -> Iterator[Tensor]:
        """Yield the logits of each batch, in the precision of all other evaluations, so that results agree."""
        network.to(self.trainer.strategy.root_device).eval()
        # Every process classifies everything: the sets are small, and this needs no communication.
        batches = EvaluationBatches(evaluation, self.data.pixels(), rank=0, world_size=1)
        for batch in batches:
            with self.trainer.precision_plugin.forward_context(), self.without_autotuning():
                yield network(batch.image)
