"""The paper's discovery."""

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.data.discoveries.ordered import Ordered
from cmu_lightning.data.pixels import Pixels
from cmu_lightning.data.samples import Samples


class Uniform(Ordered):
    """Every manipulated sample is as likely to be found as any other (paper, section 3.1).

    Args:
        count: How many of S_m are found, 1 for a single sample; give this or the data's `identified`.
        false_discovery_rate: Fraction of S_f that is not manipulated but flagged by mistake, in [0, 1); rounded.
    """

    def order(self, samples: Samples, members: Tensor, random: np.random.RandomState, pixels: Pixels) -> Tensor:
        """One permutation."""
        return torch.from_numpy(random.permutation(len(members)))
