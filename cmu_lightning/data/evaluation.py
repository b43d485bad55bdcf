"""What is measured on which samples, and batches of them for a network.

Every accuracy is a question: of the samples of this domain, which fraction is given this class? Clean-label
accuracies ask for the true class, `fit_*` for the label as given, `asr` for the adversary's target, and
`unchanged` for the class that the original predicts.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cmu_lightning.data.memmap import Images
from cmu_lightning.data.samples import Samples
from cmu_lightning.data.sampling import rank_slice
from cmu_lightning.data.transforms import Pixels

if TYPE_CHECKING:
    from cmu_lightning.data.datamodule import CorruptedDataModule

Question = tuple[Tensor, Tensor]  # the class asked for, int64, and the domain, bool; each of shape (n,)


class Evaluation(NamedTuple):
    """Samples to be classified, and what each of D accuracies counts as right.

    `rows` (n,) says which of the images, `stamped` (n,) which carry the manipulation's pixels,
    `target` (n, D) the class that an accuracy asks for, `domain` (n, D) whether it counts the sample; `number`
    (n,) tells training samples apart to the manipulation, and is None where they are stamped as unseen images are.
    """

    names: tuple[str, ...]
    images: Images
    rows: Tensor
    stamped: Tensor
    target: Tensor
    domain: Tensor
    number: Tensor | None = None


class EvaluationBatch(NamedTuple):
    """This process's slice of a batch of an `Evaluation`; n can be 0."""

    image: Tensor
    target: Tensor
    domain: Tensor


def evaluation_size(images: Images) -> int:
    """Images in a batch without gradients: many enough to fill an accelerator, few enough for a laptop's memory."""
    height, width = images.shape[1:3]
    return max(16, min(1000, 4 * 1000 * 32 * 32 // (height * width)))


class EvaluationBatches:
    """Every sample of an evaluation exactly once over all processes, in order, not augmented.

    All processes get the same number of batches, some of which may be empty.
    """

    def __init__(self, evaluation: Evaluation, pixels: Pixels, rank: int, world_size: int) -> None:
        self.evaluation, self.pixels = evaluation, pixels
        self.rank, self.world_size = rank, world_size
        self.size = evaluation_size(evaluation.images)

    def __len__(self) -> int:
        return -(-len(self.evaluation.rows) // self.size)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        _, images, rows, stamped, target, domain, number = self.evaluation
        place, device = images.device, self.pixels.device
        images_at = rows.to(place)  # once, as all of these: a copy a batch would wait for the device
        number = None if number is None else number.to(device)
        target, domain = target.to(device), domain.to(device)
        for start in range(0, len(rows), self.size):
            stop = min(start + self.size, len(rows))
            part = rank_slice(slice(start, stop), self.rank, self.world_size)
            image = self.pixels(images[images_at[part]], stamped[part], None if number is None else number[part])
            yield EvaluationBatch(image, target[part], domain[part])


def ask(
    images: Images, rows: Tensor, stamped: Tensor, questions: dict[str, Question], number: Tensor | None = None
) -> Evaluation:
    """An evaluation of some samples; those that no question counts are left out.

    Args:
        images: Those of a split.
        rows: Which ones, shape (n,).
        stamped: Which of them carry the manipulation's pixels, shape (n,).
        questions: By their names.
        number: Tells them apart to the manipulation, shape (n,); None stamps them as unseen images.
    """
    target = torch.stack([question[0] for question in questions.values()], dim=1)
    domain = torch.stack([question[1] for question in questions.values()], dim=1)
    counted = domain.any(dim=1)
    own = None if number is None else number[counted]
    return Evaluation(
        tuple(questions), images, rows[counted], stamped[counted], target[counted], domain[counted], own
    )  # fmt: skip


def of_samples(samples: Samples, rows: Tensor, questions: dict[str, Question]) -> Evaluation:
    """Of samples as they are trained on but not augmented.

    Args:
        samples: All of them.
        rows: Which ones, shape (n,).
        questions: By their names.
    """
    stamped, number = (field.cpu()[rows] for field in (samples.manipulated, samples.manipulation_index))
    return ask(samples.images, rows, stamped, questions, number)


def of_test(data: "CorruptedDataModule") -> Evaluation:
    """The paper's equations 1 and 2, on the test split.

    Every image comes twice, with the manipulation's pixels and without; the affected domain is among the
    former, the rest of the world among the latter.
    """
    labels = data.test.labels.cpu()
    adversary = data.manipulation
    nothing = torch.zeros_like(labels, dtype=torch.bool)
    clean = labels.repeat(2)
    affected = torch.cat([adversary.affected(labels), nothing])
    questions = {
        "acc_corr": (clean, affected),
        "acc_retain": (clean, torch.cat([nothing, adversary.unaffected(labels)])),
    }
    wanted = adversary.target_labels(labels)
    if wanted is not None:
        others = affected & (wanted.repeat(2) != clean)
        questions |= {"acc_corr_nontarget": (clean, others), "asr": (wanted.repeat(2), others)}
    return ask(data.test.images, torch.arange(len(labels)).repeat(2), torch.cat([~nothing, nothing]), questions)


def of_train(data: "CorruptedDataModule", reference: Tensor | None) -> Evaluation:
    """On S_tr as it is trained on but not augmented; of S_f and retain only if there is a `reference`.

    Args:
        data: Set up.
        reference: Classes that the original predicts on S_f, in ascending order of index; None for an original.
    """
    clean, labels, manipulated, deleted, _ = (field.cpu() for field in data.samples[1:])
    questions = {"acc_manipulated": (clean, manipulated)}
    if reference is not None:
        questions |= {
            "acc_identified": (clean, deleted & manipulated),
            "acc_unidentified": (clean, manipulated & ~deleted),
            "fit_identified": (labels, deleted),
            "fit_retain": (labels, ~deleted),
            "unchanged": (labels.masked_scatter(deleted, reference), deleted),
        }
    return of_samples(data.samples, torch.arange(len(clean)), questions)


def of_deleted(data: "CorruptedDataModule", reference: Tensor) -> Evaluation:
    """On S_f: whether its predicted classes are these.

    Args:
        data: Set up.
        reference: One for each sample of S_f, in ascending order of index, such as what the original predicts.
    """
    rows = torch.nonzero(data.samples.deleted).flatten().cpu()
    everywhere = torch.ones(len(rows), dtype=torch.bool)
    return of_samples(data.samples, rows, {"unchanged": (reference, everywhere)})


def of_validation(data: "CorruptedDataModule") -> Evaluation:
    """On the validation samples, in all and for each class of the labels as given."""
    samples = data.validation
    labels = samples.given_labels.cpu()
    classes = one_hot(labels, data.num_classes).bool()
    questions = {"val_acc": (labels, torch.ones_like(labels, dtype=torch.bool))}
    questions |= {f"val_acc_class_{label}": (labels, classes[:, label]) for label in range(data.num_classes)}
    return of_samples(samples, torch.arange(len(labels)), questions)
