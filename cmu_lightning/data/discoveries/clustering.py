"""Activation clustering (Chen et al., 2018)."""

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.data.discoveries.detector import Detector, classes_to_look_at
from cmu_lightning.data.discoveries.inspection import Inspection


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
