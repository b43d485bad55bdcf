"""ETD: an original trained with example-tied dropout (Maini et al., ICML 2023)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from cmu_lightning.data import Batch
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.baselines import Original
from cmu_lightning.unlearning.sample_masks import sample_mask

Site = _BatchNorm | nn.Conv2d


class ETD(Original):
    """An original that is trained with example-tied dropout, so that separate channels hold what it memorises.

    In training, a channel j of C is on for every sample if j < p_fixed C, which at least one is, and others with
    probability `p_mem`, fixed by a hash of the sample's index and the same at all places with C channels. In evaluation
    the other channels are off. The places are the outputs of batch norm, or of convolutions in a network without it. At
    the end the factors of evaluation are multiplied into the weights of the places, so the network has the given
    architecture and needs no dropout at inference. An unlearner starts from it by `--model.original`.

    Args:
        p_fixed: Share of the channels that are always on; default from REM's experiments.
        p_mem: Probability that a sample uses one of the other channels; default from REM's experiments.
        rescale: Whether channels that are on are multiplied by (p_fixed + p_mem) / p_fixed in evaluation, as published;
            REM's experiments do not rescale.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import ETD, Procedure
        >>> ETD(ResNet9, Procedure(steps=4000)).p_fixed
        0.5
    """

    averages: ClassVar[bool] = False

    def __init__(
        self, *args: Any, p_fixed: float = 0.5, p_mem: float = 0.2, rescale: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if not (0 < p_fixed <= 1 and 0 <= p_mem <= 1):
            raise UserError(f"p_fixed={p_fixed} and p_mem={p_mem} are shares: give over 0 to 1, and 0 to 1")
        self.p_fixed, self.p_mem, self.rescale = p_fixed, p_mem, rescale
        self.index: Tensor | None = None
        """Indices of the samples of a training step, shape (n,); None in evaluation."""

    def setup(self, stage: str) -> None:
        """Drop the network's channels during training.

        Args:
            stage: Lightning's name of what is run, such as "fit".

        Raises:
            UserError: The network has no batch norm over channels and no convolution.
        """
        self.compiles = False  # masks are not a part of the compiled graph
        super().setup(stage)
        if stage != "fit":
            return
        sites = self.sites()
        if not sites:
            raise UserError(
                f"ETD drops channels, and {type(self.network).__name__} has none: use a convolutional network"
            )
        # Not earlier: batch norm over several processes consists of other modules.
        self.hooks = [site.register_forward_hook(self._drop) for site in sites]

    def sites(self) -> list[Site]:
        """Return the modules whose output channels are dropped."""
        modules = list(self.network.modules())
        normed: list[Site] = [each for each in modules if isinstance(each, _BatchNorm) and each.affine]
        return normed or [each for each in modules if isinstance(each, nn.Conv2d)]

    def loss(self, batch: Batch) -> Tensor:
        """Return cross-entropy of the network in which each sample uses its own channels, shape (n,).

        Args:
            batch: This process's slice of the global batch.
        """
        self.index = batch.train_index
        try:
            logits = self.network(batch.image)
        finally:
            self.index = None
        return cross_entropy(logits, batch.label, reduction="none")

    def factors(self, channels: int, index: Tensor | None) -> Tensor:
        """Return the factors of the channels, shape (n, channels), or (1, channels) in evaluation.

        Args:
            channels: C.
            index: Indices of the samples, shape (n,); None in evaluation.
        """
        on = max(1, round(self.p_fixed * channels))
        fixed = torch.arange(channels, device=None if index is None else index.device) < on
        if index is None:
            return fixed.unsqueeze(0) * self.scale
        used = sample_mask(index, channels, self.p_mem, derive_seed(self.seed, 3, channels))
        return (fixed | used).float()

    @property
    def scale(self) -> float:
        """Factor of the channels that are on in evaluation; 1 if none are off."""
        return min(self.p_fixed + self.p_mem, 1.0) / self.p_fixed if self.rescale else 1.0

    def _drop(self, site: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        factors = self.factors(output.shape[1], self.index).to(output.device, output.dtype)
        dropped: Tensor = output * factors.view(len(factors), -1, *[1] * (output.dim() - 2))
        return dropped

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Multiply the factors of evaluation into the weights, and stop dropping channels."""
        for site, hook in zip(self.sites(), self.hooks, strict=True):
            hook.remove()
            for values in (site.weight, site.bias):
                if values is not None:
                    factors = self.factors(len(values), None).to(values.device, values.dtype).squeeze(0)
                    values.mul_(factors.view(-1, *[1] * (values.dim() - 1)))
