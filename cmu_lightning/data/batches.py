"""What a stage trains on: one global batch a step, or whole passes."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from torch import Tensor

from cmu_lightning.data.samples import Batch, Samples, to_device
from cmu_lightning.data.sampling import EpochSampler, generator, rank_slice
from cmu_lightning.data.transforms import CropAndFlip, Pixels


class Source:
    """Some of S_tr, in epochs of global batches, each sample with its crop.

    Args:
        samples: S_tr.
        view: Indices of the samples to take, on the CPU.
        sampler: Orders them.
        augmentation: Moves and mirrors the images.
    """

    def __init__(self, samples: Samples, view: Tensor, sampler: EpochSampler, augmentation: CropAndFlip) -> None:
        self.samples, self.view, self.sampler, self.augmentation = samples, view, sampler, augmentation
        self.manipulated = samples.manipulated.cpu()
        self.prepared: tuple[int, Tensor, Tensor, Tensor, Tensor] | None = None

    def batch(self, step: int, pixels: Pixels, rank: int, world_size: int) -> Batch:
        """A process's slice of one global batch; `step` counts this source's own."""
        epoch, whole = self.sampler.batch(step)
        order, stamped, crops, number = self.epoch(epoch)
        part = rank_slice(whole, rank, world_size)
        samples, rows, device = self.samples, order[part], pixels.device
        fields = samples.given_labels, samples.true_labels, samples.deleted
        label, clean, deleted = (to_device(field[rows], device) for field in fields)
        images = self.augmentation(to_device(samples.images[rows], device), to_device(crops[part], device))
        image = pixels(images, stamped[part], number[part])
        return Batch(image, label, clean, deleted, to_device(rows, device), whole.stop - whole.start)

    def epoch(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """An epoch's samples in order, which are stamped, their crops, and their `number`; kept for its next steps."""
        if self.prepared is None or self.prepared[0] != epoch:
            place = self.samples.images.device
            order = self.view[self.sampler.order(epoch)]
            crops = self.augmentation.draw(len(order), generator(self.sampler.seed, epoch, 1))
            rows, crops = to_device(order, place), to_device(crops, place)
            self.prepared = epoch, rows, self.manipulated[order], crops, self.samples.manipulation_index[rows]
        return self.prepared[1:]


class TrainingBatches:
    """Batches for the steps that are left.

    Args:
        sources: Where batches come from.
        plan: For each step, the number of the source that gives its next batch.
        done: Tells how many steps are done when iteration starts.
        pixels: Makes the network's input of images.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        plan: Sequence[int],
        done: Callable[[], int],
        pixels: Pixels,
        rank: int,
        world_size: int,
    ) -> None:
        self.sources, self.done, self.pixels = sources, done, pixels
        self.rank, self.world_size = rank, world_size
        own = [count() for _ in sources]
        self.steps = [(source, next(own[source])) for source in plan]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.done(), len(self.steps)):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """This process's slice of one global batch."""
        source, own = self.steps[step]
        return self.sources[source].batch(own, self.pixels, self.rank, self.world_size)

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch of the last source, which is the larger one, is over after this step."""
        source, own = self.steps[step]
        last = len(self.sources) - 1
        return source == last and (own + 1) % self.sources[last].sampler.steps_per_epoch == 0

    def state_dict(self) -> dict[str, Any]:
        """Empty: the position is the number of steps done, which a checkpoint holds anyway."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


class FullPasses:
    """A loader of one step, which is given a whole pass over S_f and one over the retain data."""

    def __init__(self, deleted: TrainingBatches, retain: TrainingBatches) -> None:
        self.deleted, self.retain = deleted, retain

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator["FullPasses"]:
        yield self

    def ends_epoch(self, step: int) -> bool:
        """It is one."""
        return True
