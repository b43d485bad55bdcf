"""The deletion set S_f before any network is inspected: a list, or the first samples of an order."""

from torch import Tensor

from cmu_lightning.data.discoveries import Detector, Discovery, OrderedDiscovery, Uniform
from cmu_lightning.data.samples import Samples
from cmu_lightning.data.transforms import Pixels
from cmu_lightning.errors import UserError


def number_found(identified: float, members: int) -> int:
    """Return how many samples of S_m are found: `identified` times |S_m|, rounded.

    Args:
        identified: Fraction of S_m to find.
        members: |S_m|.

    Raises:
        UserError: The result is 0.
    """
    count = round(identified * members)
    if not count:
        raise UserError(f"identified={identified} of {members} manipulated samples is none: give more")
    return count


def fraction_found(samples: Samples, default: float = 1.0) -> float:
    """Return the fraction of S_m that is in S_f.

    Args:
        samples: S_tr with both masks.
        default: Result where S_m is empty.
    """
    members = int(samples.manipulated.sum())
    return int((samples.deleted & samples.manipulated).sum()) / members if members else default


def identify(
    samples: Samples,
    discovery: Discovery | None,
    flagged: Tensor | None,
    identified: float,
    seed: int,
    pixels: Pixels,
) -> float:
    """Mark S_f: the samples of a list, or else the first samples that the discovery finds.

    A detector inspects an original first, so its S_f is marked later; until then S_f holds the samples of its list.

    Args:
        samples: S_tr, on the CPU; its `deleted` is changed.
        discovery: How S_f is found; None for a uniform draw.
        flagged: Samples that a list flags, bool, shape (n,); None without a list.
        identified: Fraction of S_m to find.
        seed: Draws S_f.
        pixels: Turns images into a network's input.

    Returns:
        The fraction of S_m that was found.

    Raises:
        UserError: There is nothing to find, or no way to find it.
    """
    # 1. A list determines S_f completely.
    if flagged is not None:
        samples.deleted[flagged] = True
    if isinstance(discovery, Detector):
        return identified
    if flagged is not None:
        return fraction_found(samples)
    # 2. Otherwise samples of S_m are found in some order.
    members = int(samples.manipulated.sum())
    if not members and discovery is None:
        return identified
    discovery = discovery or Uniform()
    if not isinstance(discovery, OrderedDiscovery):
        raise UserError(f"{type(discovery).__name__} does not determine S_f: make it an OrderedDiscovery or a Detector")
    if not members:
        raise UserError(
            f"{type(discovery).__name__} finds manipulated samples, and none is known to be one: "
            "give data.discovery Flagged and its path"
        )
    if discovery.count is not None:
        identified = discovery.count / members
    samples.deleted[discovery.find(samples, number_found(identified, members), seed, pixels)] = True
    return identified
