"""A slight warp of the whole image."""

from functools import lru_cache
from math import inf

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from cmu_lightning.data.manipulations.backdoor import Backdoor
from cmu_lightning.data.sampling import generator
from cmu_lightning.errors import UserError


class WaNet(Backdoor):
    """x' = x sampled bilinearly at clamp(id + s P / H, -1, 1), coordinates being -1 to 1 (Nguyen and Tran, 2021).

    P is a field of k x k uniform vectors in [-1, 1], over their mean absolute value, enlarged bicubically to the
    image's size; it is drawn once. The source's noise mode, for which it controls the training, is left out.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        strength: s; pixels move by about s / 2.
        grid: k.
        pattern: Draws P.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        strength: float = 0.5,
        grid: int = 4,
        pattern: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, target, seed)
        if not 0 < strength < inf:
            raise UserError(f"strength={strength} warps nothing: give a number above 0")
        if grid < 2:
            raise UserError(f"grid={grid} is no field: give at least 2")
        self.strength = strength
        self.grid = grid
        self.pattern = pattern

    def stamp(self, images: Tensor) -> Tensor:
        """Warp."""
        height, width = images.shape[-2:]
        where = places(self.pattern, self.strength, self.grid, height, width, images.device)
        return grid_sample(images, where.expand(len(images), -1, -1, -1), align_corners=True)


@lru_cache(maxsize=16)
def places(seed: int, strength: float, grid: int, height: int, width: int, device: torch.device) -> Tensor:
    """Where each pixel is taken from, as x and y from -1 to 1, shape (1, H, W, 2)."""
    coarse = 2 * torch.rand((1, 2, grid, grid), generator=generator(seed)) - 1
    field = interpolate(coarse / coarse.abs().mean(), (height, width), mode="bicubic", align_corners=True)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return (torch.stack([x, y], dim=-1) + strength * field.permute(0, 2, 3, 1) / height).clamp(-1, 1).to(device)
