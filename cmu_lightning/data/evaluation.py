"""What is measured on which samples.

Every accuracy is a question: of the samples of this domain, which fraction is given this class? Clean-label
accuracies ask for the true class, `fit_*` for the label as given, `asr` for the adversary's target, and
`unchanged` for the class that the original predicts.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cmu_lightning.data.loading import Evaluation, Split

if TYPE_CHECKING:
    from cmu_lightning.data.datamodule import CorruptedDataModule

Question = tuple[Tensor, Tensor]  # the class asked for, int64, and the domain, bool; each of shape (n,)


def ask(
    split: Split, rows: Tensor, stamped: Tensor, questions: dict[str, Question], index: Tensor | None = None
) -> Evaluation:
    """An evaluation of some samples; those that no question counts are left out.

    Args:
        split: Holds the images.
        rows: Which ones, shape (n,).
        stamped: Which of them carry the manipulation's pixels, shape (n,).
        questions: By their names.
        index: Tells them apart to the manipulation, shape (n,); None stamps them as unseen images.
    """
    target = torch.stack([question[0] for question in questions.values()], dim=1)
    domain = torch.stack([question[1] for question in questions.values()], dim=1)
    counted = domain.any(dim=1)
    own = None if index is None else index[counted]
    return Evaluation(
        tuple(questions), split, rows[counted], stamped[counted], target[counted], domain[counted], own
    )  # fmt: skip


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
    wanted = adversary.wanted(labels)
    if wanted is not None:
        others = affected & (wanted.repeat(2) != clean)
        questions |= {"acc_corr_nontarget": (clean, others), "asr": (wanted.repeat(2), others)}
    return ask(data.test, torch.arange(len(labels)).repeat(2), torch.cat([~nothing, nothing]), questions)


def of_train(data: "CorruptedDataModule", reference: Tensor | None) -> Evaluation:
    """On S_tr as it is trained on but not augmented; of S_f and retain only if there is a `reference`.

    Args:
        data: Set up.
        reference: Classes that the original predicts on S_f, in ascending order of index; None for an original.
    """
    clean, labels, manipulated, deleted, index = (field.cpu() for field in data.samples[1:])
    questions = {"acc_manipulated": (clean, manipulated)}
    if reference is not None:
        questions |= {
            "acc_identified": (clean, deleted & manipulated),
            "acc_unidentified": (clean, manipulated & ~deleted),
            "fit_identified": (labels, deleted),
            "fit_retain": (labels, ~deleted),
            "unchanged": (labels.masked_scatter(deleted, reference), deleted),
        }
    split = Split(data.samples.images, data.samples.clean)
    return ask(split, torch.arange(len(clean)), manipulated, questions, index)


def of_deleted(data: "CorruptedDataModule", reference: Tensor) -> Evaluation:
    """On S_f: whether its predicted classes are still the original's."""
    rows = torch.nonzero(data.samples.deleted).flatten().cpu()
    everywhere = torch.ones(len(rows), dtype=torch.bool)
    split = Split(data.samples.images, data.samples.clean)
    stamped, index = (field.cpu()[rows] for field in (data.samples.manipulated, data.samples.number))
    return ask(split, rows, stamped, {"unchanged": (reference, everywhere)}, index)


def of_validation(data: "CorruptedDataModule") -> Evaluation:
    """On the validation samples, in all and for each class of the labels as given."""
    samples = data.validation
    labels = samples.labels.cpu()
    classes = one_hot(labels, data.num_classes).bool()
    questions = {"val_acc": (labels, torch.ones_like(labels, dtype=torch.bool))}
    questions |= {f"val_acc_class_{label}": (labels, classes[:, label]) for label in range(data.num_classes)}
    split = Split(samples.images, samples.clean)
    return ask(split, torch.arange(len(labels)), samples.manipulated.cpu(), questions, samples.number.cpu())
