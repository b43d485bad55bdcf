"""Batches for the training (`TrainingBatches`, `FullPasses`) and the evaluation (`EvaluationBatches`) of a stage.

Any number of processes gets the same global batches: each process takes its slice of every one.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

from torch import Tensor

from cmu_lightning.data.evaluation import Evaluation
from cmu_lightning.data.memmap import Images
from cmu_lightning.data.samples import Batch, Samples, to_device
from cmu_lightning.data.sampling import EpochSampler, generator, rank_slice
from cmu_lightning.data.transforms import CropAndFlip, Pixels


class Source:
    """A part of S_tr, in epochs of global batches, each sample with its crop.

    Args:
        samples: S_tr.
        view: Indices of the samples to take, int64, on the CPU.
        sampler: Orders them.
        augmentation: Moves and mirrors the images.
    """

    def __init__(self, samples: Samples, view: Tensor, sampler: EpochSampler, augmentation: CropAndFlip) -> None:
        self.samples, self.view, self.sampler, self.augmentation = samples, view, sampler, augmentation
        self.manipulated = samples.manipulated.cpu()
        self.prepared: tuple[int, Tensor, Tensor, Tensor, Tensor] | None = None

    def batch(self, step: int, pixels: Pixels, rank: int, world_size: int) -> Batch:
        """Return a process's slice of one global batch.

        Args:
            step: Step of this source, counted from 0.
            pixels: Turns images into the network's input.
            rank: Number of this process.
            world_size: Number of processes.
        """
        epoch, whole = self.sampler.batch(step)
        order, stamped, crops, number = self.epoch(epoch)
        part = rank_slice(whole, rank, world_size)
        samples, rows, device = self.samples, order[part], pixels.device
        # 1. The slice's rows, copied to the device where the images do not live there.
        fields = samples.given_labels, samples.true_labels, samples.deleted
        label, clean, deleted = (to_device(field[rows], device) for field in fields)
        # 2. Augment, then stamp, so that no trigger is moved or mirrored, then normalise.
        images = self.augmentation(to_device(samples.images[rows], device), to_device(crops[part], device))
        image = pixels(images, stamped[part], number[part])
        return Batch(image, label, clean, deleted, to_device(rows, device), whole.stop - whole.start)

    def epoch(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return an epoch's samples in order; kept until another epoch is asked for.

        Args:
            epoch: Number of the epoch, counted from 0.

        Returns:
            Indices into S_tr, whether each is stamped (on the CPU), its crop (n, 3), and its `manipulation_index`.
        """
        if self.prepared is None or self.prepared[0] != epoch:
            place = self.samples.images.device
            order = self.view[self.sampler.order(epoch)]
            # Draw for all processes together: a sample's crop depends neither on the processes nor on the device.
            crops = self.augmentation.draw(len(order), generator(self.sampler.seed, epoch, 1))
            rows, crops = to_device(order, place), to_device(crops, place)
            self.prepared = epoch, rows, self.manipulated[order], crops, self.samples.manipulation_index[rows]
        return self.prepared[1:]


class TrainingBatches:
    """A loader of the batches of the remaining steps.

    Args:
        sources: Sources of the batches.
        plan: For each step, the index of the source that gives its batch.
        done: Returns how many steps are done, when iteration starts.
        pixels: Turns images into the network's input.
        rank: Number of this process.
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
        counters = [count() for _ in sources]
        self.steps = [(source, next(counters[source])) for source in plan]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.done(), len(self.steps)):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """Return this process's slice of one global batch.

        Args:
            step: Step of the stage, counted from 0.
        """
        source, own_step = self.steps[step]
        return self.sources[source].batch(own_step, self.pixels, self.rank, self.world_size)

    def part(self, step: int) -> tuple[int, int]:
        """Return which source gives the batch of a step, and which of its epochs that is part of, both from 0.

        Args:
            step: Step of the stage, counted from 0.
        """
        source, own_step = self.steps[step]
        return source, own_step // self.sources[source].sampler.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Return whether an epoch of the last source, which is the largest, ends with this step.

        Args:
            step: Step of the stage, counted from 0.
        """
        source, own_step = self.steps[step]
        last = len(self.sources) - 1
        return source == last and (own_step + 1) % self.sources[last].sampler.steps_per_epoch == 0

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position follows from the number of steps done, which a checkpoint holds anyway."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load nothing.

        Args:
            state: Empty.
        """


class PairedBatches(TrainingBatches):
    """A loader that gives a batch of the retain data, or of all of S_tr, and one of S_f in every step.

    Args:
        main: Batches that make up the epochs.
        deleted: Batches of S_f, for as many steps.
        is_needed: Tells whether a step needs a batch of S_f, which is None otherwise; default every step does.
    """

    def __init__(
        self, main: TrainingBatches, deleted: TrainingBatches, is_needed: Callable[[int], bool] | None = None
    ) -> None:
        super().__init__(
            main.sources, [source for source, _ in main.steps], main.done, main.pixels, main.rank, main.world_size
        )
        self.deleted, self.is_needed = deleted, is_needed

    def batch(self, step: int) -> tuple[Batch, Batch | None]:  # type: ignore[override]
        """Return this process's slices of the two global batches.

        Args:
            step: Step of the stage, counted from 0.
        """
        is_needed = self.is_needed is None or self.is_needed(step)
        return super().batch(step), self.deleted.batch(step) if is_needed else None


class FullPasses:
    """A loader of one step, whose batch is this object: a whole pass over S_f and one over the retain data.

    Args:
        deleted: One pass over S_f.
        retain: One pass over the retain data.
    """

    def __init__(self, deleted: TrainingBatches, retain: TrainingBatches) -> None:
        self.deleted, self.retain = deleted, retain

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator["FullPasses"]:
        yield self

    def ends_epoch(self, step: int) -> bool:
        """Return True: the one step is an epoch.

        Args:
            step: Ignored.
        """
        return True


class EvaluationBatch(NamedTuple):
    """This process's slice of a batch of an `Evaluation`: image (n, C, H, W), target and domain (n, D); n can be 0."""

    image: Tensor
    target: Tensor
    domain: Tensor


def evaluation_size(images: Images) -> int:
    """Return the size of a batch without gradients, which fills an accelerator and still fits a laptop's memory.

    Args:
        images: Shape (n, H, W, C).
    """
    height, width = images.shape[1:3]
    return max(16, min(1000, 4 * 1000 * 32 * 32 // (height * width)))


class EvaluationBatches:
    """A loader of every sample of an evaluation exactly once over all processes, in order, not augmented.

    All processes get the same number of batches, some of which may be empty.

    Args:
        evaluation: What to measure on which samples.
        pixels: Turns images into the network's input.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, evaluation: Evaluation, pixels: Pixels, rank: int, world_size: int) -> None:
        self.evaluation, self.pixels = evaluation, pixels
        self.rank, self.world_size = rank, world_size
        self.size = evaluation_size(evaluation.images)

    def __len__(self) -> int:
        return -(-len(self.evaluation.rows) // self.size)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        _, images, rows, stamped, target, domain, number, _ = self.evaluation
        place, device = images.device, self.pixels.device
        # Copy the questions once: a copy for each batch would make the CPU wait for the device.
        images_at = rows.to(place)
        number = None if number is None else number.to(device)
        target, domain = target.to(device), domain.to(device)
        for start in range(0, len(rows), self.size):
            stop = min(start + self.size, len(rows))
            part = rank_slice(slice(start, stop), self.rank, self.world_size)
            image = self.pixels(images[images_at[part]], stamped[part], None if number is None else number[part])
            yield EvaluationBatch(image, target[part], domain[part])
