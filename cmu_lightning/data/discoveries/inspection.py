"""What a detector can see: the original, looking at S_tr as it was trained on but not augmented."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data.evaluation import evaluation_size
from cmu_lightning.data.pixels import Pixels
from cmu_lightning.data.samples import Samples
from cmu_lightning.errors import UserError
from cmu_lightning.screen import bar


class Inspection:
    """A network's features and losses on samples, batch by batch, so that no more than the result is kept.

    Args:
        network: The original.
        samples: S_tr.
        pixels: Makes a network's input of images, stamps included, on the device that the network runs on.
    """

    def __init__(self, network: nn.Module, samples: Samples, pixels: Pixels) -> None:
        self.network, self.samples, self.pixels = network, samples, pixels
        self.labels = samples.labels.cpu()
        """As given, shape (n,); a detector looks at no other."""

    def features(self) -> Tensor:
        """What the linear layer gets that the network runs last, shape (n, d), float64, on the CPU.

        Raises:
            UserError: The network runs none.
        """
        latest: list[Tensor] = []
        seen: list[Tensor] = []

        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            latest[:] = given

        linear = [module for module in self.network.modules() if isinstance(module, nn.Linear)]
        hooks = [each.register_forward_pre_hook(keep) for each in linear]
        try:
            for _ in self._outputs():
                if not latest:
                    raise UserError(
                        f"{type(self.network).__name__} has no linear layer, whose input a detector takes as features: "
                        "give a network that ends in nn.Linear, or another discovery"
                    )
                seen.append(latest.pop().flatten(1).cpu())
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(seen).double()

    def losses(self) -> Tensor:
        """Cross-entropy with the labels as given, shape (n,), float64, on the CPU."""
        losses = [cross_entropy(outputs, self.labels[rows], reduction="none") for rows, outputs in self._outputs()]
        return torch.cat(losses)

    @torch.no_grad()
    def _outputs(self) -> Iterator[tuple[slice, Tensor]]:
        """Which samples each batch holds, and their logits, float64, on the CPU."""
        network = self.network.to(self.pixels.device).eval()
        images, manipulated = self.samples.images, self.samples.manipulated.cpu()
        index = self.samples.number.cpu()
        size = evaluation_size(images)
        starts = range(0, len(index), size)
        for start in bar(starts, "detecting", len(starts)):
            rows = slice(start, start + size)
            yield rows, network(self.pixels(images[rows], manipulated[rows], index[rows])).cpu().double()
