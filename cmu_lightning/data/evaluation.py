"""Evaluations: which accuracies are measured on which samples.

Every accuracy is the fraction of the samples of a domain for which a certain class is predicted: the true class for
clean-label accuracies, the label as given for `fit_*`, the adversary's target for `asr`, and the original's prediction
for `unchanged`.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cmu_lightning.data.memmap import Images
from cmu_lightning.data.samples import Samples

if TYPE_CHECKING:
    from cmu_lightning.data.datamodule import CorruptedDataModule

FORCED = "acc_pair"
"""The accuracy of a choice between the two classes of a pair, whatever other classes are more likely."""

Question = tuple[Tensor, Tensor]
"""The class asked for, int64, and the domain, bool; each of shape (n,)."""


class Evaluation(NamedTuple):
    """Samples to classify, and what each of D accuracies counts as right.

    `names` are the accuracies' names. `rows` (n,) are indices into `images`, `stamped` (n,) marks the samples that
    carry the manipulation's pixels. `target` (n, D) is the class that an accuracy asks for; (n, 1) if all ask for the
    same. `domain` (n, D) says whether it counts the sample. `number` (n,) identifies training samples to the
    manipulation; None stamps all as unseen images. `pair` are the two classes between which the accuracy `acc_pair` has
    to choose.
    """

    names: tuple[str, ...]
    images: Images
    rows: Tensor
    stamped: Tensor
    target: Tensor
    domain: Tensor
    number: Tensor | None = None
    pair: tuple[int, int] | None = None

    def predictions(self, logits: Tensor) -> Tensor:
        """Return predicted classes, shape (n,); with `pair` one for each accuracy, shape (n, D).

        Of equal logits the first class counts.

        Args:
            logits: Shape (n, num_classes).
        """
        classes = logits.argmax(dim=1)
        if self.pair is None:
            return classes
        first, second = self.pair
        forced = torch.where(logits[:, first] >= logits[:, second], first, second)
        return torch.stack([forced if name == FORCED else classes for name in self.names], dim=1)


def ask(
    images: Images, rows: Tensor, stamped: Tensor, questions: dict[str, Question], number: Tensor | None = None
) -> Evaluation:
    """Return an evaluation of some samples; samples that no question counts are left out.

    Args:
        images: Images of a split.
        rows: Indices of the samples, shape (n,).
        stamped: Which of them carry the manipulation's pixels, bool, shape (n,).
        questions: Class and domain of each accuracy, by its name.
        number: Identifies samples to the manipulation, shape (n,); None stamps them as unseen images.
    """
    # With many classes, many accuracies ask for the same: one copy of that is enough.
    targets = list({id(question[0]): question[0] for question in questions.values()}.values())
    asked = [question[0] for question in questions.values()] if len(targets) > 1 else targets
    target = torch.stack(asked, dim=1)
    domain = torch.stack([question[1] for question in questions.values()], dim=1)
    counted = domain.any(dim=1)
    kept = None if number is None else number[counted]
    return Evaluation(
        tuple(questions), images, rows[counted], stamped[counted], target[counted], domain[counted], kept
    )  # fmt: skip


def of_samples(samples: Samples, rows: Tensor, questions: dict[str, Question]) -> Evaluation:
    """Return an evaluation of samples as they are trained on, but not augmented.

    Args:
        samples: All samples.
        rows: Indices of the samples to evaluate, shape (n,).
        questions: Class and domain of each accuracy, by its name.
    """
    stamped, number = (field.cpu()[rows] for field in (samples.manipulated, samples.manipulation_index))
    return ask(samples.images, rows, stamped, questions, number)


def of_test(data: "CorruptedDataModule") -> Evaluation:
    """Return the paper's equations 1 and 2 on the test split.

    Every image comes twice, with the manipulation's pixels and without; the affected domain is part of the former,
    the unaffected domain part of the latter.

    Args:
        data: Data module after its set-up.
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
    targets = adversary.target_labels(labels)
    if targets is not None:
        # An image of the target class gives no information about the attack.
        others = affected & (targets.repeat(2) != clean)
        questions |= {"acc_corr_nontarget": (clean, others), "asr": (targets.repeat(2), others)}
    if adversary.pair is not None:
        # A model that always predicts B is right on half of A and B; only the choice between the two is informative.
        counted = affected | questions["acc_retain"][1]
        questions[FORCED] = (clean, counted & torch.isin(clean, torch.tensor(adversary.pair)))
    rows, stamped = torch.arange(len(labels)).repeat(2), torch.cat([~nothing, nothing])
    return ask(data.test.images, rows, stamped, questions)._replace(pair=adversary.pair)


def of_train(data: "CorruptedDataModule", reference: Tensor | None) -> Evaluation:
    """Return the accuracies on S_tr as trained on, but not augmented; on S_f and retain data only for unlearners.

    Args:
        data: Data module after its set-up.
        reference: Classes that the original predicts on S_f, by ascending index, shape (|S_f|,); None for an original.
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
    """Return the fraction of S_f whose predicted classes are the given ones.

    Args:
        data: Data module after its set-up.
        reference: A class for each sample of S_f, by ascending index, such as the original's prediction; (|S_f|,).
    """
    rows = torch.nonzero(data.samples.deleted).flatten().cpu()
    everywhere = torch.ones(len(rows), dtype=torch.bool)
    return of_samples(data.samples, rows, {"unchanged": (reference, everywhere)})


def of_validation(data: "CorruptedDataModule", by_class: bool = True) -> Evaluation:
    """Return the accuracies on the validation samples: of all, and of each class of the labels as given.

    Args:
        data: Data module after its set-up.
        by_class: Whether those of the classes are asked for.
    """
    samples = data.validation
    labels = samples.given_labels.cpu()
    questions = {"val_acc": (labels, torch.ones_like(labels, dtype=torch.bool))}
    if by_class:
        classes = labels.unsqueeze(1) == torch.arange(data.num_classes)  # a byte each; one_hot would make it eight
        questions |= {f"val_acc_class_{label}": (labels, classes[:, label]) for label in range(data.num_classes)}
    return of_samples(samples, torch.arange(len(labels)), questions)
