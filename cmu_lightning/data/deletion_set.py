"""Which samples are in S_f, where no detector has to look at an original first."""

from torch import Tensor

from cmu_lightning.data.discoveries import Detector, Discovery, OrderedDiscovery, Uniform
from cmu_lightning.data.samples import Samples
from cmu_lightning.data.transforms import Pixels
from cmu_lightning.errors import UserError


def number_found(identified: float, members: int) -> int:
    """How many of S_m are found.

    Args:
        identified: Fraction of S_m to find.
        members: |S_m|.

    Raises:
        UserError: It rounds to none.
    """
    count = round(identified * members)
    if not count:
        raise UserError(f"identified={identified} of {members} manipulated samples is none: give more")
    return count


def identify(
    samples: Samples,
    discovery: Discovery | None,
    flagged: Tensor | None,
    identified: float,
    seed: int,
    pixels: Pixels,
) -> float:
    """Mark S_f: what a list flags, else the first that the discovery finds; a detector's waits for an original.

    Args:
        samples: S_tr, whose `deleted` is changed.
        discovery: How S_f comes about; None for a uniform draw.
        flagged: What a list flags, bool, shape (n,); None without one.
        identified: Fraction of S_m to find.
        seed: Draws S_f.
        pixels: Makes a network's input.

    Returns:
        The fraction of S_m that was found.

    Raises:
        UserError: There is nothing to find.
    """
    members = int(samples.manipulated.sum())
    if flagged is not None:
        samples.deleted[flagged] = True
    if isinstance(discovery, Detector):
        return identified
    if flagged is not None:
        return int((samples.manipulated & flagged).sum()) / members if members else 1.0
    if not members and discovery is None:
        return identified
    discovery = discovery or Uniform()
    if not isinstance(discovery, OrderedDiscovery):
        raise UserError(f"{type(discovery).__name__} says nothing of S_f: make it an OrderedDiscovery or a Detector")
    if not members:
        raise UserError(
            f"{type(discovery).__name__} finds manipulated samples, and none is known to be one: "
            "give data.discovery Flagged and its path"
        )
    if discovery.count is not None:
        identified = discovery.count / members
    samples.deleted[discovery.find(samples, number_found(identified, members), seed, pixels)] = True
    return identified
