"""What all unlearners share: they start from an original and fine-tune it."""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cmu_lightning.data.evaluation import Evaluation, EvaluationBatches
from cmu_lightning.data.validation import check_deletion_set
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.checkpoint import load_network, read_original
from cmu_lightning.unlearning.networks import check_outputs, is_finite
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.stage import RECORD, Stage


class Unlearner(Stage):
    """U(M_o, S_tr, S_f): starts from the original's weights, for `procedure.unlearn_steps`.

    Args:
        network: Constructor of the network, the same as the original's.
        procedure: How it is fine-tuned.
        original: The original's weights: a run's `last.ckpt`, another checkpoint with a `state_dict`, a plain state
            dict, or a `.safetensors` file; left out, the command line finds the setting's original or trains it.
        seed: Seed of everything random in this method; S_m and S_f have seeds of their own.
    """

    unlearns: ClassVar[bool] = True
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "unlearn_steps"

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(network, procedure, seed)
        self.original = original

    def prepare(self) -> None:
        """Load the original, and keep what it predicts on S_f."""
        original = self.load_original()
        check_deletion_set(self.data.samples.deleted)
        labels = self.data.samples.given_labels.clone()
        self.start(original)
        if not torch.equal(labels, self.data.samples.given_labels):
            raise UserError(
                f"{type(self).__name__} changes the labels of the data, by which it is measured: keep a copy, and look "
                "into it by batch.train_index"
            )
        self.reference = self.classes(original, self.data.all_deleted())
        original.cpu()

    def start(self, original: nn.Module) -> None:
        """Take from the original what the method starts with; here its weights."""
        self.network.load_state_dict(original.state_dict())

    def load_original(self) -> nn.Module:
        """The original, in evaluation mode, if it was trained on this very manipulation."""
        data, path = self.data, self.original
        if path is None:
            raise UserError(f"{type(self).__name__} needs the checkpoint of an original: give it as `original`")
        checkpoint = read_original(path)
        record = checkpoint.get(RECORD)
        if record and "optimizer_states" in checkpoint and checkpoint["global_step"] < record.get("steps", math.inf):
            raise UserError(f"{path} is of an unfinished run: let it finish, then use it as the original")
        original = load_network(self.make_network(), checkpoint, path)
        if not is_finite(original):
            raise UserError(f"the original {path} has weights that are not finite: give one that did not diverge")
        recorded = checkpoint.get(type(data).__qualname__)
        difference = data.difference(recorded) if recorded else "another data set" if RECORD in checkpoint else None
        if difference:
            raise UserError(f"the original {path} was trained on {difference}: use an original of this setting")
        check_outputs(original, data)
        return original.eval()

    def classes(self, network: nn.Module, what: Evaluation) -> Tensor:
        """Predicted classes of everything in an evaluation, on every process alike; shape (n,), on the CPU."""
        return torch.cat([outputs.argmax(dim=1) for outputs in self._outputs(network, what)]).cpu()

    def accuracies(self, what: Evaluation) -> Tensor:
        """Of the network as it is now, on every process alike; shape (D,), float64, on the CPU.

        Its forward passes are the method's own, and counted.
        """
        self.samples_forward += len(what.rows)
        right = self.classes(self.network, what).unsqueeze(1) == what.target
        return (right & what.domain).sum(0).double() / what.domain.sum(0)

    def logits(self, network: nn.Module, what: Evaluation) -> Tensor:
        """What the classes are the largest of; shape (n, num_classes), float32, on the CPU."""
        return torch.cat([outputs.float() for outputs in self._outputs(network, what)]).cpu()

    @torch.no_grad()
    def _outputs(self, network: nn.Module, what: Evaluation) -> list[Tensor]:
        """Of each batch, in the precision of all other evaluations, so that a network agrees with itself."""
        network.to(self.trainer.strategy.root_device).eval()
        batches = EvaluationBatches(what, self.data.pixels(), rank=0, world_size=1)
        with self.trainer.precision_plugin.forward_context(), self.steadily():
            return [network(batch.image) for batch in batches]
