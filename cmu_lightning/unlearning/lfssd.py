"""LFSSD: SSD without labels (Foster et al., 2024, arXiv 2402.19308)."""

from collections.abc import Callable

from torch import Tensor, nn

from cmu_lightning.unlearning.importance import squared_norm
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.ssd import SSD


class LFSSD(SSD):
    """SSD by the absolute gradients of the squared norm of the outputs.

    Args:
        network: Constructor of the network, the same as the original's.
        procedure: Procedure A; only its batch size matters here: importances are of batches of that size.
        original: Checkpoint of the original.
        seed: Without effect, unless `augment` is on.
        selection: Threshold on the ratio of importances.
        dampening_ratio: Strength of the dampening, as a multiple of `selection`.
        augment: Whether importances are of shuffled and augmented samples.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
        selection: float = 10.0,
        dampening_ratio: float = 0.1,
        augment: bool = False,
    ) -> None:
        super().__init__(network, procedure, original, seed, selection, dampening_ratio, augment=augment)

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The squared norm of the outputs."""
        return squared_norm(logits, labels)

    def measure(self, gradient: Tensor) -> Tensor:
        """Its absolute value."""
        return gradient.abs()
