"""Detectors: S_f consists of the samples that look most suspicious to the original."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cmu_lightning.console import bar
from cmu_lightning.data.batches import evaluation_size
from cmu_lightning.data.discoveries.base import Discovery
from cmu_lightning.data.discoveries.flagged import Flagged
from cmu_lightning.data.discoveries.looks import look
from cmu_lightning.data.discoveries.positive_unlabelled import Look, suspect
from cmu_lightning.data.samples import Samples
from cmu_lightning.data.transforms import Pixels
from cmu_lightning.data.validation import check_scores
from cmu_lightning.errors import UserError


class Inspection:
    """A network's features and losses on samples, computed batch by batch so that only the result is kept.

    Args:
        network: The original.
        samples: S_tr.
        pixels: Turns images into a network's input, stamps included, on the device that the network runs on.
    """

    def __init__(self, network: nn.Module, samples: Samples, pixels: Pixels) -> None:
        self.network, self.samples, self.pixels = network, samples, pixels
        self.labels = samples.given_labels.cpu()
        """Given labels, shape (n,); a detector uses no others."""
        self.classified = 0
        """Number of samples that the network has classified."""

    def features(self) -> Tensor:
        """Return the input of the linear layer that the network runs last.

        Returns:
            Shape (n, d), float64, on the CPU.

        Raises:
            UserError: The network runs no linear layer.
        """
        latest: list[Tensor] = []
        batches: list[Tensor] = []

        def keep_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            latest[:] = inputs

        # Every linear layer overwrites the input of the previous one, so the input of the last layer to run remains.
        linear = [module for module in self.network.modules() if isinstance(module, nn.Linear)]
        hooks = [module.register_forward_pre_hook(keep_input) for module in linear]
        try:
            for _ in self._outputs():
                if not latest:
                    raise UserError(
                        f"{type(self.network).__name__} has no linear layer, whose input a detector takes as features: "
                        "give a network that ends in nn.Linear, or another discovery"
                    )
                batches.append(latest.pop().flatten(1).cpu())
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(batches).double()

    def losses(self) -> Tensor:
        """Return the cross-entropy with the given labels, shape (n,), float64, on the CPU."""
        losses = [cross_entropy(outputs, self.labels[rows], reduction="none") for rows, outputs in self._outputs()]
        return torch.cat(losses)

    def look(self, rows: Tensor) -> Look:
        """Return the network's outputs on some samples, as they are trained on but not augmented.

        Args:
            rows: Indices of the samples, shape (n,), n at least 1.
        """
        self.classified += len(rows)
        parts = torch.split(rows, evaluation_size(self.samples.images))
        network, samples = self.network.to(self.pixels.device).eval(), self.samples
        manipulated, index = samples.manipulated.cpu(), samples.manipulation_index.cpu()
        images = (
            self.pixels(samples.images[part.to(samples.images.device)], manipulated[part], index[part])
            for part in bar(parts, "looking", len(parts))
        )
        return look(network, images)

    @torch.no_grad()
    def _outputs(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows of each batch and their logits, float64, on the CPU."""
        network = self.network.to(self.pixels.device).eval()
        self.classified += len(self.labels)
        images, manipulated = self.samples.images, self.samples.manipulated.cpu()
        index = self.samples.manipulation_index.cpu()
        size = evaluation_size(images)
        starts = range(0, len(index), size)
        for start in bar(starts, "detecting", len(starts)):
            rows = slice(start, start + size)
            yield rows, network(self.pixels(images[rows], manipulated[rows], index[rows])).cpu().double()


class Detector(Discovery, ABC):
    """A discovery whose S_f is exactly the set that it flags, including clean samples.

    The flagged fraction of S_m is known only afterwards. A larger S_f of one detector contains every smaller one. A
    subclass defines `scores`.

    Args:
        count: Number of samples to flag; give this or `fraction`.
        fraction: Number of samples to flag as a fraction of S_tr, in (0, 1]; rounded.
    """

    decides: ClassVar[bool] = False
    """Whether it flags every score over 1/2 if neither `count` nor `fraction` is given."""

    def __init__(self, count: int | None = None, fraction: float | None = None) -> None:
        if count is not None and count < 1:
            raise UserError(f"discovery.count={count} flags nothing: give at least 1")
        if (count is None) == (fraction is None) and not (self.decides and count is None):
            given = "neither is" if count is None else f"count={count} and fraction={fraction} are"
            raise UserError(
                f"a detector flags discovery.count samples or discovery.fraction of S_tr, and {given} given: give one"
            )
        if fraction is not None and not 0 < fraction <= 1:
            raise UserError(f"discovery.fraction={fraction} is not in (0, 1]: it is the fraction of S_tr to flag")
        self.count, self.fraction = count, fraction

    @property
    def extent(self) -> str:
        """The argument that fixes the size of S_f."""
        if self.count is None and self.fraction is None:
            return "probability over 0.5"
        return f"fraction={self.fraction}" if self.count is None else f"count={self.count}"

    @abstractmethod
    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Return how suspicious each sample is.

        Args:
            seen: The original's features and losses, and the given labels.
            random: Generator for everything random.

        Returns:
            Shape (n,). The largest score is flagged first, of equal ones the first; scores must not depend on the
            number of samples to flag.
        """

    def detect(self, seen: Inspection, seed: int) -> Tensor:
        """Return S_f.

        Args:
            seen: The original's view of S_tr.
            seed: Seed of everything random.

        Returns:
            Indices into S_tr, the most suspicious first.

        Raises:
            UserError: The number to flag is 0 or more than |S_tr|.
        """
        total = len(seen.labels)
        count = round(total * self.fraction) if self.fraction is not None else self.count
        if (not count or count > total) and (self.count, self.fraction) != (None, None):
            raise UserError(f"discovery.{self.extent} cannot be flagged of {total} samples: give 1 to {total} of them")
        scores = self.scores(seen, np.random.RandomState(seed))
        check_scores(self, scores, total)
        count = int((scores > 0.5).sum()) if count is None else count
        return scores.argsort(descending=True, stable=True)[:count]


def classes_to_inspect(labels: Tensor, classes: list[int] | None) -> list[int]:
    """Return the classes that a detector inspects, in ascending order unless they are given.

    Args:
        labels: Given labels, shape (n,).
        classes: Given labels to inspect; None for all that occur.

    Raises:
        UserError: One of `classes` does not occur.
    """
    present = sorted(set(labels.tolist()))
    for label in classes or []:
        if label not in present:
            raise UserError(f"discovery.classes={classes}: no sample is labelled {label}, so give others")
    return present if classes is None else classes


class LossRanking(Detector):
    """The original's cross-entropy with the given labels, without augmentation.

    Wrong labels are learned last (Arpit et al., 2017) and have the highest losses; triggers are learned first (Li et
    al., 2021) and have the lowest.

    Args:
        first: `highest` flags large losses first, `lowest` small ones.
        kwargs: Arguments of `Detector`: `count` and `fraction`.

    Example:
        >>> from cmu_lightning.data import LossRanking
        >>> LossRanking(first="lowest", fraction=0.03).extent
        'fraction=0.03'
    """

    def __init__(self, first: Literal["highest", "lowest"] = "highest", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = first

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Return the losses, or their negatives."""
        return seen.losses() if self.first == "highest" else -seen.losses()


class SpectralSignatures(Detector):
    """Distance from the mean along the direction in which the features of a class vary most (Tran et al., 2018).

    With M_c the features of the samples that are labelled c, less their mean, and v_c the top right singular vector of
    M_c, the score of a row m of M_c is (m . v_c)^2 (algorithm 1 of the source). The source removes the same number of
    samples from every class. Here the scores of all classes are ranked together, so that a class with larger scores
    loses more samples.

    Args:
        classes: Given labels to look at, default all; samples with other labels are flagged last.
        kwargs: Arguments of `Detector`: `count` and `fraction`.

    Example:
        >>> from cmu_lightning.data import SpectralSignatures
        >>> SpectralSignatures(classes=[0], count=36).extent
        'count=36'
    """

    def __init__(self, classes: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Return the squared projections."""
        features = seen.features()
        scores = torch.full((len(features),), -torch.inf, dtype=torch.float64)
        for label in classes_to_inspect(seen.labels, self.classes):
            members = seen.labels == label
            centred = features[members] - features[members].mean(dim=0)
            scores[members] = (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]).square()
        return scores


class ActivationClustering(Detector):
    """The smaller of two clusters of the features of a class (Chen et al., 2018).

    For each class of the given labels:
      1. Reduce the features to 10 principal components (the source takes independent components).
      2. Split them into two clusters by 2-means; the smaller one is suspicious.
      3. Compute the silhouettes. The source judges a class by their mean (section 5.3).

    The smaller cluster of the class with the largest mean silhouette is flagged first, and in it the samples of the
    largest silhouettes. After all smaller clusters, the larger ones follow in the same order of classes, beginning with
    the samples of the smallest silhouettes.

    Args:
        classes: Given labels to look at, default all; samples with other labels are flagged last.
        kwargs: Arguments of `Detector`: `count` and `fraction`.

    Example:
        >>> from cmu_lightning.data import ActivationClustering
        >>> ActivationClustering(fraction=0.03).extent
        'fraction=0.03'
    """

    dimensions = 10

    def __init__(self, classes: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Return ranks: by cluster, then by the mean silhouette of the class, then by the sample's silhouette."""
        features, labels = seen.features(), seen.labels
        # Samples of classes that are not inspected keep values below every cluster and silhouette.
        in_smaller, class_silhouette, silhouette = (np.full(len(labels), least, dtype=float) for least in (-1, -2, -2))
        for label in classes_to_inspect(labels, self.classes):
            members = labels.numpy() == label
            cluster, silhouettes = self._smaller_cluster(features[labels == label], random)
            in_smaller[members], class_silhouette[members] = cluster, silhouettes.mean()
            silhouette[members] = np.where(cluster, silhouettes, -silhouettes)
        # lexsort takes its last key first; the negated position puts the first of equal samples on top.
        order = np.lexsort((-np.arange(len(labels)), silhouette, class_silhouette, in_smaller))
        ranks = np.empty(len(labels))
        ranks[order] = np.arange(len(labels))
        return torch.from_numpy(ranks)

    def _smaller_cluster(self, features: Tensor, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """Cluster the features of one class.

        Args:
            features: Shape (m, d).
            random: Generator that seeds 2-means.

        Returns:
            Membership of the smaller cluster, 0 or 1, and silhouettes, shape (m,) each. Features that are all equal,
            or fewer than three, give an empty cluster and silhouettes of -1.
        """
        from sklearn.cluster import KMeans  # takes a second to import
        from sklearn.metrics import silhouette_samples

        seed = random.randint(2**31)
        centred = features - features.mean(dim=0)
        left, values, _ = torch.linalg.svd(centred, full_matrices=False)
        reduced = (left * values)[:, : self.dimensions].numpy()
        if len(reduced) < 3 or not centred.any():
            return np.zeros(len(reduced)), np.full(len(reduced), -1.0)
        cluster = KMeans(n_clusters=2, n_init=10, random_state=seed).fit_predict(reduced)
        smaller = int(2 * cluster.sum() < len(cluster))
        return (cluster == smaller).astype(float), silhouette_samples(reduced, cluster)


class FromKnown(Detector):
    """A detector that starts from known samples of S_m.

    They come from a list or from a uniform draw, the paper's S_f. They belong to S_f and are flagged first.

    Args:
        known: Number of known samples; give this, `known_fraction` or `path`.
        known_fraction: Number of known samples as a fraction of S_m, in (0, 1]; rounded.
        path: Path of a list of the known samples in the format of `Flagged`; they are flagged in the order of the data.
        kwargs: Arguments of `Detector`: `count` and `fraction`.
    """

    def __init__(
        self,
        known: int | None = None,
        known_fraction: float | None = None,
        path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if [known, known_fraction, path].count(None) != 2:
            raise UserError(
                "give one of discovery.known (samples of S_m), discovery.known_fraction (of S_m) and discovery.path"
            )
        if known_fraction is not None and not 0 < known_fraction <= 1:
            raise UserError(f"discovery.known_fraction={known_fraction} is not in (0, 1]: it is a fraction of S_m")
        self.known, self.known_fraction = known, known_fraction
        self.known_list = None if path is None else Flagged(path)

    def content(self) -> dict[str, str]:
        """Return a digest of the list, if there is one."""
        return {} if self.known_list is None else self.known_list.content()

    def flagged(self, total: int, names: Sequence[str] | None) -> Tensor | None:
        """Return the mask of listed samples, a part of S_f. The arguments are those of `Flagged.flagged`."""
        return None if self.known_list is None else self.known_list.flagged(total, names)

    def known_samples(self, samples: Samples, random: np.random.RandomState) -> Tensor:
        """Return the indices of the known samples, in the order in which they are flagged.

        Args:
            samples: S_tr, in which a list's samples are marked as S_f.
            random: Generator of the draw.
        """
        if self.known_list is None:
            return self._draw_known(torch.nonzero(samples.manipulated.cpu()).flatten(), random)
        return torch.nonzero(samples.deleted.cpu()).flatten()

    def _draw_known(self, members: Tensor, random: np.random.RandomState) -> Tensor:
        """Return the first samples of the permutation of S_m that also draws the paper's S_f.

        Args:
            members: Indices of S_m, ascending, shape (|S_m|,).
            random: Generator of the permutation.

        Raises:
            UserError: The number of known samples is 0 or more than |S_m|.
        """
        total, fraction = len(members), self.known_fraction
        known = self.known if fraction is None else round(total * fraction)
        if not known or not 0 < known <= total:
            given = f"known={known}" if fraction is None else f"known_fraction={fraction}"
            raise UserError(
                f"discovery.{given} of {total} manipulated samples is not possible: give 1 to {total} of them"
            )
        return members[torch.from_numpy(random.permutation(total))[:known]]


class Similarity(FromKnown):
    """The cosine similarity of a sample's features to those of known samples of S_m with the same given label.

    Samples whose given label does not occur among the known samples are flagged last.

    Args:
        known: Number of known samples; give this, `known_fraction` or `path`.
        known_fraction: Number of known samples as a fraction of S_m, in (0, 1]; rounded.
        path: Path of a list of the known samples in the format of `Flagged`; they are flagged in the order of the data.
        to: `nearest` compares with the most similar known sample, `mean` with the mean of their directions.
        kwargs: Arguments of `Detector`: `count` and `fraction`.

    Example:
        >>> from cmu_lightning.data import Similarity
        >>> Similarity(known=4, count=36).extent
        'count=36'
    """

    def __init__(
        self,
        known: int | None = None,
        known_fraction: float | None = None,
        path: str | None = None,
        to: Literal["nearest", "mean"] = "nearest",
        **kwargs: Any,
    ) -> None:
        super().__init__(known, known_fraction, path, **kwargs)
        self.to = to

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Return cosines, and numbers above 2 for the known samples, descending in their order."""
        known = self.known_samples(seen.samples, random)
        directions = normalize(seen.features())
        scores = torch.full((len(directions),), -torch.inf, dtype=torch.float64)
        for label in set(seen.labels[known].tolist()):
            members, examples = seen.labels == label, directions[known[seen.labels[known] == label]]
            if self.to == "mean":
                scores[members] = directions[members] @ normalize(examples.mean(dim=0), dim=0)
            else:
                scores[members] = (directions[members] @ examples.T).amax(dim=1)
        scores[known] = 2 + torch.arange(len(known), 0, -1, dtype=torch.float64)
        return scores


class PULearning(FromKnown):
    """The probability that a sample is manipulated, by PURE's probes on the unchanged original.

    The known samples are a labelled sample of S_m; the other samples with their given labels are a mixture of hidden
    S_m and clean samples: `cmu_lightning.data.discoveries.positive_unlabelled` separates them. A detector does not
    train, so it lacks the evidence of PURE's warm-up: if the original has memorised S_m, it finds less than PURE does.

    Without `count` and `fraction`, all samples with a probability above 1/2 are flagged. Samples whose given label does
    not occur among the known samples come last.

    Args:
        kwargs: Arguments of `FromKnown` (`known`, `known_fraction`, `path`) and of `Detector` (`count`, `fraction`).

    Example:
        >>> from cmu_lightning.data import PULearning
        >>> PULearning(known_fraction=0.1).extent
        'probability over 0.5'
    """

    decides = True

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Return probabilities, -1 where no known sample has the given label, and numbers above 2 for known samples."""
        known = self.known_samples(seen.samples, random)
        is_known = torch.zeros(len(seen.labels), dtype=torch.bool)
        is_known[known] = True
        rows = torch.nonzero(torch.isin(seen.labels, seen.labels[known])).flatten()
        scores = torch.full((len(seen.labels),), -1.0, dtype=torch.float64)
        scores[rows] = suspect([seen.look(rows)], seen.labels[rows], is_known[rows]).probability
        scores[known] = 2 + torch.arange(len(known), 0, -1, dtype=torch.float64)
        return scores
