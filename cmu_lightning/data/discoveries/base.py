"""The base class of all discoveries, which determine S_f."""

from collections.abc import Sequence

from torch import Tensor


class Discovery:
    """How S_f is found: from a list, by a detector, or in the order in which samples of S_m are found."""

    @property
    def extent(self) -> str | None:
        """The argument that fixes the size of S_f, such as `count=5`; None leaves it to the data's `identified`."""
        return None

    def flagged(self, total: int, names: Sequence[str] | None) -> Tensor | None:
        """Return the mask of stored training samples that are known to be manipulated.

        They are never used for validation. They make up S_f; a detector receives them as deleted samples.

        Args:
            total: Number of stored training samples, validation samples included.
            names: Name of the file of each sample, relative to the training folder; None if samples have no names.

        Returns:
            Bool, shape (total,); None if S_f is drawn from S_m.
        """
        return None

    def content(self) -> dict[str, str]:
        """Return a digest of each file that is read, by the argument that names the file."""
        return {}
