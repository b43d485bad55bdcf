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


def ask(split: Split, index: Tensor, stamped: Tensor, questions: dict[str, Question]) -> Evaluation:
    """An evaluation of some samples; those that no question counts are left out."""
    target = torch.stack([question[0] for question in questions.values()], dim=1)
    domain = torch.stack([question[1] for question in questions.values()], dim=1)
    counted = domain.any(dim=1)
    return Evaluation(
        tuple(questions), split, index[counted], stamped[counted], target[counted], domain[counted]
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
    index = torch.arange(len(labels)).repeat(2)
    return ask(data.test, index, torch.cat([~nothing, nothing]), questions)._replace(unseen=True)


def of_train(data: "CorruptedDataModule", reference: Tensor | None) -> Evaluation:
    """On S_tr as it is trained on but not augmented; of S_f and retain only if there is a `reference`.

    Args:
        data: Set up.
        reference: Classes that the original predicts on S_f, in ascending order of index; None for an original.
    """
    clean, labels, manipulated, deleted = (field.cpu() for field in data.samples[1:])
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
    return ask(split, torch.arange(len(clean)), manipulated, questions)


def of_deleted(data: "CorruptedDataModule", reference: Tensor) -> Evaluation:
    """On S_f: whether its predicted classes are still the original's."""
    index = torch.nonzero(data.samples.deleted).flatten().cpu()
    everywhere = torch.ones(len(index), dtype=torch.bool)
    split = Split(data.samples.images, data.samples.clean)
    stamped = data.samples.manipulated.cpu()[index]
    return ask(split, index, stamped, {"unchanged": (reference, everywhere)})


def of_validation(data: "CorruptedDataModule") -> Evaluation:
    """On the validation samples, in all and for each class of the labels as given."""
    samples = data.validation
    labels = samples.labels.cpu()
    classes = one_hot(labels, data.num_classes).bool()
    questions = {"val_acc": (labels, torch.ones_like(labels, dtype=torch.bool))}
    questions |= {f"val_acc_class_{label}": (labels, classes[:, label]) for label in range(data.num_classes)}
    split = Split(samples.images, samples.clean)
    return ask(split, torch.arange(len(labels)), samples.manipulated.cpu(), questions)
