"""Extra capacity for convolutions: channels that change nothing at first, and can be switched off and dropped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.networks import has_batch_norm
from cmu_lightning.unlearning.sample_masks import sample_mask

NAME = "extra_channels"
"""Name of the extra channels among the modules of their convolution."""


class ExtraChannels(nn.Module):
    """Channels that read a convolution's input and write to its output: outgoing(mask * relu(norm(incoming(x)))).

    The incoming filters are random and have the convolution's geometry; the outgoing weights are zero.

    Args:
        convolution: Convolution that they extend.
        channels: Their number.
        normalises: Whether they have batch norm, which starts with weight 1 and bias 0.
    """

    def __init__(self, convolution: nn.Conv2d, channels: int, normalises: bool) -> None:
        super().__init__()
        like: dict[str, Any] = {"dtype": convolution.weight.dtype, "device": convolution.weight.device}
        self.incoming = nn.Conv2d(
            convolution.in_channels,
            channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            bias=not normalises,
            padding_mode=convolution.padding_mode,
            **like,
        )
        self.norm = nn.BatchNorm2d(channels, **like) if normalises else nn.Identity()
        self.outgoing = nn.Conv2d(channels, convolution.out_channels, 1, bias=False, **like)
        nn.init.zeros_(self.outgoing.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the channels' contribution to the convolution's output.

        Args:
            x: Input of the convolution, shape (n, in_channels, h, w).
            mask: Channels that each sample uses, bool, shape (n, channels) or (1, channels).

        Returns:
            Shape (n, out_channels, h', w').
        """
        active = relu(self.norm(self.incoming(x))) * mask[:, :, None, None]
        added: Tensor = self.outgoing(active)
        return added


class ExtraCapacity:
    """Extra channels for every ungrouped convolution of a network, all switched on or off together.

    The outputs are bit-identical to those without the channels while they are off, or while their outgoing weights are
    zero. Each sample uses channels drawn for its index, by a hash. They are modules inside the
    convolutions, so an optimiser, a device or a batch norm over several processes treats them like any other part of
    the network. After they are dropped, the network has its original keys and shapes.

    Args:
        network: Convolutional network, changed in place.
        ratio: Number of extra channels for each channel of a convolution's output.
        probability: Probability with which a sample uses an extra channel.
        seed: Seed of the incoming filters and of the masks.

    Raises:
        UserError: The network has no ungrouped convolution, or only one that cuts the image into patches.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
        >>> capacity = ExtraCapacity(network, ratio=1.0, probability=0.2, seed=0)
        >>> capacity.channels, len(network.state_dict())
        (4, 5)
        >>> capacity.drop()
        >>> list(network.state_dict())
        ['0.weight', '0.bias']
    """

    def __init__(self, network: nn.Module, ratio: float, probability: float, seed: int) -> None:
        self.probability, self.seed = probability, seed
        self.index: Tensor | None = None
        """Indices of the samples in the batch, shape (n,) or (1,); None while the channels are off."""
        self.channels = 0
        self.convolutions = self._find(network)
        normalises = has_batch_norm(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = [
                ExtraChannels(each, max(1, round(ratio * each.out_channels)), normalises) for each in self.convolutions
            ]
        self.hooks = []
        for convolution, extra in zip(self.convolutions, made, strict=True):
            convolution.add_module(NAME, extra)
            self.hooks.append(convolution.register_forward_hook(self._hook(self.channels)))
            self.channels += extra.outgoing.in_channels

    @staticmethod
    def _find(network: nn.Module) -> list[nn.Conv2d]:
        """Return the convolutions that get extra channels."""
        found = [each for each in network.modules() if isinstance(each, nn.Conv2d) and each.groups == 1]
        # The only convolution of a transformer cuts the image into patches.
        cut = [each for each in found if each.kernel_size == each.stride != (1, 1)]
        if not found or (len(found) == 1 and cut):
            has = "only one, which cuts the image into patches" if found else "none"
            name = type(network).__name__
            raise UserError(f"extra channels need convolutions, and {name} has {has}: use Scrub or PURE there")
        return found

    def _hook(self, first: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """Return the hook that adds the extra channels, whose numbers begin with `first`, to a convolution's output."""

        def add(convolution: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self.index is None:
                return output
            extra: ExtraChannels = convolution.get_submodule(NAME)  # type: ignore[assignment]
            mask = sample_mask(self.index, extra.outgoing.in_channels, self.probability, self.seed, first)
            added: Tensor = output + extra(inputs[0], mask)
            return added

        return add

    @contextmanager
    def on(self, index: Tensor) -> Iterator[None]:
        """Switch the channels on within a context.

        Args:
            index: Indices of the network's samples, shape (n,), or one index that all of them share, shape (1,).
        """
        self.index = index
        try:
            yield
        finally:
            self.index = None

    def drop(self) -> None:
        """Remove the channels from the network, whose own weights stay unchanged."""
        for convolution, hook in zip(self.convolutions, self.hooks, strict=True):
            hook.remove()
            delattr(convolution, NAME)
