"""Detectors: S_f is what looks most suspicious to the original."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cmu_lightning.console import bar
from cmu_lightning.data.batches import evaluation_size
from cmu_lightning.data.discoveries.base import Discovery
from cmu_lightning.data.discoveries.flagged import Flagged
from cmu_lightning.data.samples import Samples
from cmu_lightning.data.transforms import Pixels
from cmu_lightning.data.validation import check_scores
from cmu_lightning.errors import UserError


class Inspection:
    """A network's features and losses on samples, batch by batch, so that no more than the result is kept.

    Args:
        network: The original.
        samples: S_tr.
        pixels: Makes a network's input of images, stamps included, on the device that the network runs on.
    """

    def __init__(self, network: nn.Module, samples: Samples, pixels: Pixels) -> None:
        self.network, self.samples, self.pixels = network, samples, pixels
        self.labels = samples.given_labels.cpu()
        """As given, shape (n,); a detector looks at no other."""

    def features(self) -> Tensor:
        """What the linear layer gets that the network runs last, shape (n, d), float64, on the CPU.

        Raises:
            UserError: The network runs none.
        """
        latest: list[Tensor] = []
        seen: list[Tensor] = []

        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            latest[:] = given

        linear = [module for module in self.network.modules() if isinstance(module, nn.Linear)]
        hooks = [each.register_forward_pre_hook(keep) for each in linear]
        try:
            for _ in self._outputs():
                if not latest:
                    raise UserError(
                        f"{type(self.network).__name__} has no linear layer, whose input a detector takes as features: "
                        "give a network that ends in nn.Linear, or another discovery"
                    )
                seen.append(latest.pop().flatten(1).cpu())
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(seen).double()

    def losses(self) -> Tensor:
        """Cross-entropy with the labels as given, shape (n,), float64, on the CPU."""
        losses = [cross_entropy(outputs, self.labels[rows], reduction="none") for rows, outputs in self._outputs()]
        return torch.cat(losses)

    @torch.no_grad()
    def _outputs(self) -> Iterator[tuple[slice, Tensor]]:
        """Which samples each batch holds, and their logits, float64, on the CPU."""
        network = self.network.to(self.pixels.device).eval()
        images, manipulated = self.samples.images, self.samples.manipulated.cpu()
        index = self.samples.manipulation_index.cpu()
        size = evaluation_size(images)
        starts = range(0, len(index), size)
        for start in bar(starts, "detecting", len(starts)):
            rows = slice(start, start + size)
            yield rows, network(self.pixels(images[rows], manipulated[rows], index[rows])).cpu().double()


class Detector(Discovery, ABC):
    """S_f is exactly what is flagged, clean samples included; how much of S_m that is, turns out.

    A detector of one's own overrides `scores`. A larger S_f of one detector holds every smaller one.

    Args:
        count: How many samples are flagged in all; give this or `fraction`.
        fraction: The same as a fraction of S_tr, in (0, 1]; rounded.
    """

    def __init__(self, count: int | None = None, fraction: float | None = None) -> None:
        if count is not None and count < 1:
            raise UserError(f"discovery.count={count} flags nothing: give at least 1")
        if (count is None) == (fraction is None):
            said = "neither is" if count is None else f"count={count} and fraction={fraction} are"
            raise UserError(f"a detector flags discovery.count samples or discovery.fraction of S_tr, and {said} given")
        if fraction is not None and not 0 < fraction <= 1:
            raise UserError(f"discovery.fraction={fraction} is not in (0, 1]: it is the fraction of S_tr to flag")
        self.count, self.fraction = count, fraction

    @property
    def extent(self) -> str:
        """Says how large S_f is."""
        return f"fraction={self.fraction}" if self.count is None else f"count={self.count}"

    @abstractmethod
    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """How suspicious each sample is.

        Args:
            seen: The original's features and losses, and the labels as given.
            random: To draw from, if anything is random.

        Returns:
            Shape (n,), the largest flagged first, of equal ones the first; it must not depend on how many are wanted.
        """

    def detect(self, seen: Inspection, seed: int) -> Tensor:
        """S_f as indices into S_tr, the most suspicious first.

        Args:
            seen: The original, looking at S_tr.
            seed: Of all that is random.

        Raises:
            UserError: There are not as many samples, or a fraction of them is none.
        """
        total = len(seen.labels)
        count = round(total * self.fraction) if self.fraction is not None else self.count
        if not count or count > total:
            raise UserError(f"discovery.{self.extent} cannot be flagged of {total} samples: give 1 to {total} of them")
        scores = self.scores(seen, np.random.RandomState(seed))
        check_scores(self, scores, total)
        return scores.argsort(descending=True, stable=True)[:count]


def classes_to_look_at(labels: Tensor, classes: list[int] | None) -> list[int]:
    """Those that were asked for, or all that there are.

    Args:
        labels: As given, shape (n,).
        classes: None for all.

    Raises:
        UserError: One of them has no sample.
    """
    there = sorted(set(labels.tolist()))
    for label in classes or []:
        if label not in there:
            raise UserError(f"discovery.classes={classes}: no sample is labelled {label}, so give others")
    return there if classes is None else classes


class LossRanking(Detector):
    """By the original's cross-entropy with the labels as given, without augmentation.

    Wrong labels are learned last (Arpit et al., 2017), triggers are learned first (Li et al., 2021): the former have
    the highest losses, the latter the lowest.

    Args:
        first: `highest` flags large losses, `lowest` small ones.
        count: How many samples are flagged in all; give this or `fraction`.
        fraction: The same as a fraction of S_tr, in (0, 1]; rounded.
    """

    def __init__(
        self, first: Literal["highest", "lowest"] = "highest", count: int | None = None, fraction: float | None = None
    ) -> None:
        super().__init__(count, fraction)
        self.first = first

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Losses, or their negatives."""
        return seen.losses() if self.first == "highest" else -seen.losses()


class SpectralSignatures(Detector):
    """Samples that stand out along the direction in which the features of their class vary most.

    For each class of the labels as given, features are centred, and the score is the squared projection on their top
    right singular vector (algorithm 1 of the source, which removes the same number from every class). Here the scores
    of all classes are ranked together, so that what a class holds decides how much of it is flagged.

    Args:
        classes: Given labels that are looked at, default all; samples of others are flagged last.
        count: How many samples are flagged in all; give this or `fraction`.
        fraction: The same as a fraction of S_tr, in (0, 1]; rounded.
    """

    def __init__(
        self, classes: list[int] | None = None, count: int | None = None, fraction: float | None = None
    ) -> None:
        super().__init__(count, fraction)
        self.classes = classes

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Squared projections."""
        features = seen.features()
        scores = torch.full((len(features),), -torch.inf, dtype=torch.float64)
        for label in classes_to_look_at(seen.labels, self.classes):
            own = seen.labels == label
            centred = features[own] - features[own].mean(dim=0)
            scores[own] = (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]).square()
        return scores


class ActivationClustering(Detector):
    """The smaller of two clusters of the features of a class, where these are two.

    For each class of the labels as given, features are reduced to 10 dimensions (principal components, for which the
    source takes independent ones) and parted by 2-means; the smaller cluster is under suspicion. The source judges
    a class by its mean silhouette (section 5.3): here the smaller cluster of the class with the largest one is flagged
    first, in it the samples of the largest silhouette of their own. When all smaller clusters are flagged, larger ones
    follow in the same order, from the samples of the smallest silhouette on.

    Args:
        classes: Given labels that are looked at, default all; samples of others are flagged last.
        count: How many samples are flagged in all; give this or `fraction`.
        fraction: The same as a fraction of S_tr, in (0, 1]; rounded.
    """

    dimensions = 10

    def __init__(
        self, classes: list[int] | None = None, count: int | None = None, fraction: float | None = None
    ) -> None:
        super().__init__(count, fraction)
        self.classes = classes

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """A rank: by cluster, then by the class's silhouette, then by the sample's own."""
        features, labels = seen.features(), seen.labels
        smaller, by_class, own = (np.full(len(labels), least, dtype=float) for least in (-1, -2, -2))
        for label in classes_to_look_at(labels, self.classes):
            members = labels.numpy() == label
            cluster, silhouettes = self._clusters(features[labels == label], random)
            smaller[members], by_class[members] = cluster, silhouettes.mean()
            own[members] = np.where(cluster, silhouettes, -silhouettes)
        ranks = np.empty(len(labels))
        ranks[np.lexsort((-np.arange(len(labels)), own, by_class, smaller))] = np.arange(len(labels))
        return torch.from_numpy(ranks)

    def _clusters(self, features: Tensor, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """Who is in the smaller cluster, and each one's silhouette; of features that are all equal, nobody and -1."""
        from sklearn.cluster import KMeans  # takes a second, which others need not spend
        from sklearn.metrics import silhouette_samples

        seed = random.randint(2**31)
        centred = features - features.mean(dim=0)
        left, values, _ = torch.linalg.svd(centred, full_matrices=False)
        reduced = (left * values)[:, : self.dimensions].numpy()
        if len(reduced) < 3 or not centred.any():
            return np.zeros(len(reduced)), np.full(len(reduced), -1.0)
        found = KMeans(n_clusters=2, n_init=10, random_state=seed).fit_predict(reduced)
        least = int(2 * found.sum() < len(found))
        return (found == least).astype(float), silhouette_samples(reduced, found)


class Similarity(Detector):
    """Some of S_m are known, from a list or a uniform draw as the paper's S_f; the rest of S_tr is ranked by likeness.

    Likeness is the cosine of two samples' features, of the same given label. The known ones are part of S_f, and
    flagged first; samples whose given label none of them has are flagged last.

    Args:
        known: How many of S_m are known; give this, `known_fraction` or `path`.
        known_fraction: The same as a fraction of S_m, in (0, 1]; rounded.
        path: Path of a list of the known ones, as of `Flagged`; in the order of the data.
        to: `nearest` compares with the most alike known sample, `mean` with the mean of their directions.
        count: How many samples are flagged in all; give this or `fraction`.
        fraction: The same as a fraction of S_tr, in (0, 1]; rounded.
    """

    def __init__(
        self,
        known: int | None = None,
        known_fraction: float | None = None,
        path: str | None = None,
        to: Literal["nearest", "mean"] = "nearest",
        count: int | None = None,
        fraction: float | None = None,
    ) -> None:
        super().__init__(count, fraction)
        if [known, known_fraction, path].count(None) != 2:
            raise UserError(
                "give one of discovery.known (samples of S_m), discovery.known_fraction (of S_m) and discovery.path"
            )
        if known_fraction is not None and not 0 < known_fraction <= 1:
            raise UserError(f"discovery.known_fraction={known_fraction} is not in (0, 1]: it is a fraction of S_m")
        self.known, self.known_fraction, self.to = known, known_fraction, to
        self.list = None if path is None else Flagged(path)

    def content(self) -> dict[str, str]:
        """A digest of the list, if there is one."""
        return {} if self.list is None else self.list.content()

    def flagged(self, total: int, names: Sequence[str] | None) -> Tensor | None:
        """What the list says; S_f is more than that."""
        return None if self.list is None else self.list.flagged(total, names)

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Cosines; 2 and more for the known ones, in their order."""
        if self.list is None:
            known = self.known_ones(torch.nonzero(seen.samples.manipulated.cpu()).flatten(), random)
        else:
            known = torch.nonzero(seen.samples.deleted.cpu()).flatten()
        directions = normalize(seen.features())
        scores = torch.full((len(directions),), -torch.inf, dtype=torch.float64)
        for label in set(seen.labels[known].tolist()):
            own, examples = seen.labels == label, directions[known[seen.labels[known] == label]]
            if self.to == "mean":
                scores[own] = directions[own] @ normalize(examples.mean(dim=0), dim=0)
            else:
                scores[own] = (directions[own] @ examples.T).amax(dim=1)
        scores[known] = 2 + torch.arange(len(known), 0, -1, dtype=torch.float64)
        return scores

    def known_ones(self, members: Tensor, random: np.random.RandomState) -> Tensor:
        """The first of the paper's permutation of S_m."""
        total, fraction = len(members), self.known_fraction
        known = self.known if fraction is None else round(total * fraction)
        if not known or not 0 < known <= total:
            given = f"known={known}" if fraction is None else f"known_fraction={fraction}"
            raise UserError(f"discovery.{given} of {total} manipulated samples cannot be: give 1 to {total} of them")
        return members[torch.from_numpy(random.permutation(total))[:known]]
