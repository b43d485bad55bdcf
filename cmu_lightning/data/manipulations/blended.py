"""A faint picture laid over the whole image."""

from torch import Tensor

from cmu_lightning.data.manipulations.backdoor import Backdoor, check_opacity
from cmu_lightning.data.manipulations.pattern import noise_image


class Blended(Backdoor):
    """x' = (1 - a) x + a t, with a picture t of uniform noise (Chen et al., 2017).

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        opacity: a, in (0, 1].
        pattern: Draws t.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        opacity: float = 0.2,
        pattern: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, target, seed)
        check_opacity("opacity", opacity)
        self.opacity = opacity
        self.pattern = pattern

    def stamp(self, images: Tensor) -> Tensor:
        """Blend with the noise."""
        return images.lerp(noise_image(self.pattern, tuple(images.shape[1:]), images.device), self.opacity)
