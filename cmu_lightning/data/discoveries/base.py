"""What all discoveries share: they say what S_f depends on, and what is known of it from the start."""

from collections.abc import Sequence

from torch import Tensor


class Discovery:
    """How S_f comes about: a list, a detector, or an order in which S_m is found."""

    @property
    def extent(self) -> str | None:
        """Says how large S_f is; None leaves that to the data's `identified`."""
        return None

    def flagged(self, total: int, names: Sequence[str] | None) -> Tensor | None:
        """Which stored training samples are known for sure, bool, shape (total,); None if S_f is drawn from S_m.

        They never validate. They are S_f or, for a detector, what it is shown as deleted.

        Args:
            total: Number of training samples, those that validate among them.
            names: Of their files, relative to the training folder; None where they have indices alone.
        """
        return None

    def content(self) -> dict[str, str]:
        """Digests of files that it reads, by the argument that names the file."""
        return {}
