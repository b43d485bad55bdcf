"""The probes behind PURE, against refits, closed forms and samples from known Gaussians."""

import math

import pytest
import torch
from torch import Tensor, nn

from cmu_lightning.data.discoveries import positive_unlabelled as pu
from cmu_lightning.data.discoveries.looks import _pooled, find_blocks, look
from cmu_lightning.data.discoveries.positive_unlabelled import (
    Found,
    Look,
    Mixture,
    _best_round,
    anchored_mixture,
    believed,
    leave_one_out_scores,
    members_by_class,
    relative_to_class,
    suspect,
)
from cmu_lightning.errors import UserError
from cmu_lightning.models import ResNet9, WideResNet


def refitted_without(features: Tensor, q: Tensor, penalty: float, row: int) -> Tensor:
    """Solve the weighted ridge regression without one sample, and predict that sample."""
    positive, negative = 0.5 * q / q.sum(), 0.5 * (1 - q) / (1 - q).sum()
    weight = positive + negative
    target = (positive - negative) / weight
    design = torch.cat([features.double(), torch.ones(len(q), 1, dtype=torch.double)], dim=1)
    ridge = torch.diag(torch.tensor([penalty * features.shape[1]] * features.shape[1] + [1e-6], dtype=torch.double))
    kept = torch.arange(len(q)) != row
    x, w, t = design[kept], weight[kept], target[kept]
    coefficients = torch.linalg.solve(x.T @ (w[:, None] * x) + ridge, x.T @ (w * t))
    return design[row] @ coefficients


@pytest.mark.parametrize(("count", "width"), [(60, 5), (12, 40)], ids=["more samples", "more features"])
def test_leave_one_out_scores_equal_refitting(count, width, monkeypatch):
    monkeypatch.setattr(pu, "CHUNK", 17)  # several chunks, the last one smaller
    random = torch.Generator().manual_seed(0)
    features = torch.randn(count, width, generator=random)
    q = torch.rand(count, generator=random).double()
    scores = leave_one_out_scores(features, q, 0.05)
    expected = torch.stack([refitted_without(features, q, 0.05, row) for row in range(count)])
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-8)


def test_one_known_sample_is_scored_by_the_others():
    """S_f of one sample: its own label is not what speaks for it."""
    random = torch.Generator().manual_seed(1)
    features = torch.randn(80, 6, generator=random)
    features[:20] += 3  # hidden ones look like the known one, which is the first
    q = torch.zeros(80, dtype=torch.double)
    q[0] = 1
    scores = leave_one_out_scores(features, q, 0.3)
    assert scores[1:20].mean() > scores[20:].mean()
    assert scores[0] != pytest.approx(1.0)


@pytest.mark.parametrize("separation", [2.0, 4.0])
def test_mixture_recovers_share_and_separation(separation):
    random = torch.Generator().manual_seed(2)
    hidden = torch.randn(400, generator=random).double() + separation
    clean = torch.randn(3600, generator=random).double()
    known = torch.randn(40, generator=random).double() + separation
    found = anchored_mixture(torch.cat([hidden, clean]), known)
    assert found.share == pytest.approx(0.1, abs=0.02)
    assert found.separation == pytest.approx(separation, abs=0.2)
    assert found.posterior[:400].mean() > 5 * found.posterior[400:].mean()


def test_known_scores_say_which_component_is_the_manipulated_one():
    """Half and half: without S_f the two components could be exchanged."""
    random = torch.Generator().manual_seed(3)
    low, high = torch.randn(500, generator=random).double(), torch.randn(500, generator=random).double() + 6
    upper = anchored_mixture(torch.cat([low, high]), high[:20])
    assert upper.posterior[500:].mean() > 0.95
    assert upper.posterior[:500].mean() < 0.05


def test_belief_is_the_share_of_variance_that_flipped_signs_leave():
    normal = torch.distributions.Normal(0.0, 1.0)
    for separation in (0.5, 1.0, 3.0):
        error = float(normal.cdf(torch.tensor(-separation / 2)))
        assert believed(separation) == pytest.approx((1 - 2 * error) ** 2, abs=1e-6)
    assert believed(-1.0) == 0.0


def made_look(random: torch.Generator, moved: Tensor, labels: Tensor) -> Look:
    """Features of which the first ten columns tell who is manipulated, and logits that tell nothing."""
    activations = torch.randn(len(labels), 30, generator=random)
    activations[moved, :10] += 2
    return Look(torch.randn(len(labels), 3, generator=random), activations, [10, 20])


def test_hidden_samples_are_suspected_and_clean_ones_are_not():
    random = torch.Generator().manual_seed(4)
    labels = torch.arange(600) % 2
    manipulated = torch.arange(600) < 120
    known = torch.arange(600) < 12
    found = suspect([made_look(random, manipulated, labels) for _ in range(2)], labels, known)
    hidden = manipulated & ~known
    assert found.probe == "within"
    assert (found.probability[hidden] > 0.5).double().mean() > 0.9
    assert (found.probability[~manipulated] > 0.5).double().mean() < 0.02
    assert (found.probability[known] == 1).all()


def test_nobody_is_suspected_where_nothing_tells_them_apart():
    """Twelve samples of pure noise are known: given labels are believed."""
    random = torch.Generator().manual_seed(4)
    labels, nobody = torch.arange(600) % 2, torch.zeros(600, dtype=torch.bool)
    known = torch.arange(600) < 12
    found = suspect([made_look(random, nobody, labels)], labels, known)
    assert float(found.confidence.max()) < 0.5
    assert float(found.probability[~known].max()) < 0.5


def test_most_of_a_class_is_never_suspected(monkeypatch):
    """A class of which more would be suspected than may be keeps its labels; the other one is judged."""
    random = torch.Generator().manual_seed(6)
    labels = torch.arange(600) % 2
    manipulated = (torch.arange(600) < 200) & (labels == 0) | (torch.arange(600) < 60)
    known = torch.arange(600) < 12
    monkeypatch.setattr(pu, "MAJORITY", 0.2)
    found = suspect([made_look(random, manipulated, labels)], labels, known)
    assert (found.probability[~known & (labels == 0)] == 0).all()
    assert (found.probability[~known & (labels == 1) & manipulated] > 0.5).double().mean() > 0.8


def test_the_round_that_separates_best_counts():
    """Rounds of a scripted probe: apart, further apart, then closer again for as long as it is waited."""
    known = torch.arange(40) < 4
    shifts = iter([2.0, 6.0, *[3.0] * 20])
    noise = torch.randn(40, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    seen = []

    def score(probability: Tensor) -> Tensor:
        shift = next(shifts)
        scores = noise + shift * (torch.arange(40) < 12)
        seen.append((shift, anchored_mixture(scores[~known], scores[known])))
        return scores

    found = _best_round(score, known, torch.ones_like(known))
    best = max((mixture for _, mixture in seen), key=lambda each: each.separation)
    assert [shift for shift, _ in seen] == [2.0, 6.0, *[3.0] * pu.PATIENCE]
    assert found.mixture.separation == best.separation == seen[1][1].separation
    assert torch.equal(found.probability[~known], best.posterior)
    assert (found.probability[known] == 1).all()
    assert found.first == seen[0][1].separation
    assert found.evidence == max(0, found.first) + best.separation


def test_no_evidence_is_no_evidence():
    mixture = Mixture(torch.ones(1), 0.5, 2.0)
    assert Found(-3.0, mixture, torch.ones(1)).evidence == 2.0
    assert Found(1.0, mixture, torch.ones(1)).evidence == 3.0


def test_one_known_sample_is_enough_for_a_verdict():
    random = torch.Generator().manual_seed(7)
    labels = torch.zeros(200, dtype=torch.long)
    moved, known = torch.arange(200) < 30, torch.arange(200) < 1
    shown = made_look(random, moved, labels)
    shown.activations[moved, :10] *= 5  # by the numbers relative to the class, one sample shows what is odd about all
    shown.logits[moved, 1] += 4
    found = suspect([shown], labels, known)
    assert found.probe == "relative"
    assert (found.probability[moved & ~known] > 0.5).double().mean() > 0.9
    assert (found.probability[~moved] > 0.5).double().mean() < 0.05


def test_samples_are_described_relative_to_their_class():
    """Against one sample and one number at a time; the class of one sample has no spread."""
    random = torch.Generator().manual_seed(3)
    labels = torch.tensor([0, 2, 0, 2, 0, 1, 2, 0])
    sizes = [2, 3]
    shown = Look(torch.randn(8, 3, generator=random) * 3, torch.rand(8, 5, generator=random) * 9 + 4, sizes)
    got = relative_to_class(shown, members_by_class(labels), labels)

    def deviations(values: list[list[float]], of: list[int]) -> list[list[float]]:
        columns = list(zip(*(values[row] for row in of), strict=True))
        means = [sum(column) / len(of) for column in columns]
        spreads = [
            math.sqrt(sum((value - mean) ** 2 for value in column) / (len(of) - 1)) if len(of) > 1 else 0.0
            for column, mean in zip(columns, means, strict=True)
        ]
        return [
            [(value - mean) / (spread + 1e-6) for value, mean, spread in zip(values[row], means, spreads, strict=True)]
            for row in of
        ]

    logits, activations = shown.logits.tolist(), shown.activations.tolist()
    for label in (0, 1, 2):
        members = [row for row in range(8) if labels[row] == label]
        described = []
        for row, units in zip(members, deviations(activations, members), strict=True):
            blocks = [units[:2], units[2:]]
            distances = [math.log(max(sum(unit**2 for unit in block) / len(block), 1e-6)) for block in blocks]
            total = sum(math.exp(logit) for logit in logits[row])
            beliefs = [math.exp(logit) / total for logit in logits[row]]
            given = math.log(beliefs[label])
            other = math.log(max(belief for c, belief in enumerate(beliefs) if c != label))
            entropy = -sum(belief * math.log(belief) for belief in beliefs)
            described.append([*distances, given, other, given - other, entropy])
        expected = torch.tensor(deviations(described, list(range(len(members))))).clamp(-8, 8)
        torch.testing.assert_close(got[members].float(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("network", "size", "maps"),
    [
        (ResNet9(10, 1, 4), (1, 12, 12), 6),
        (WideResNet(10, 1), (3, 32, 32), 6),
        (nn.Sequential(nn.Flatten(), nn.Linear(75, 8), nn.ReLU(), nn.Linear(8, 3)), (3, 5, 5), 0),
    ],
    ids=["ResNet-9", "WideResNet", "MLP"],
)
def test_a_look_holds_pooled_maps_and_the_last_input(network, size, maps):
    network.eval()
    images = torch.randn(5, *size)
    shown = look(network, iter([images[:3], images[3:]]))
    blocks = find_blocks(network, images[:1])
    assert len(blocks) == maps
    assert len(shown.sizes) == 2 * maps + 1
    assert shown.activations.shape == (5, sum(shown.sizes))
    torch.testing.assert_close(shown.logits, network(images))
    if maps:  # the first block's channels, by hand
        first: list[Tensor] = []
        hook = blocks[0].register_forward_hook(lambda _, __, output: first.append(output))
        network(images)
        hook.remove()
        torch.testing.assert_close(shown.activations[:, : shown.sizes[0]], first[0].amax((2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "block", "last"),
    [
        ((2, 16, 16, 24), nn.Conv2d(3, 16, 3), False),
        ((2, 7, 14, 32), nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32)), True),
        ((2, 16, 9, 9), nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()), False),
        ((2, 9, 9, 16), nn.Identity(), True),
        ((2, 16, 9, 9), nn.Identity(), False),
        ((2, 8, 8, 8), nn.Conv2d(3, 8, 3), False),
        ((2, 12, 6, 6), nn.Sequential(nn.Conv2d(3, 12, 3), nn.Linear(12, 48), nn.Linear(48, 12)), False),
    ],
    ids=["C = H", "not square", "square", "no hint", "no hint, channels first", "all alike", "ends in a linear layer"],
)
def test_channels_are_found_in_maps_of_either_layout(shape, block, last):
    values = torch.randn(shape)
    places = (1, 2) if last else (2, 3)
    for got, expected in zip(_pooled(values, block), [values.amax(places), values.mean(places)], strict=True):
        assert torch.equal(got, expected)


def test_a_network_without_layers_of_torch_shows_nothing():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 75))

        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.linear(images.flatten(1), self.weight)

    with pytest.raises(UserError, match=r"Bare has no maps, tokens or linear layers as modules, .* torch.nn modules"):
        look(Bare().eval(), iter([torch.randn(2, 3, 5, 5)]))


def test_a_transformer_is_seen_by_its_tokens():
    from torchvision.models import VisionTransformer

    network = VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=4).eval()
    shown = look(network, iter([torch.randn(2, 3, 16, 16)]))
    assert all(size in (16,) for size in shown.sizes)
    assert len(shown.sizes) >= 5
    assert not math.isnan(float(shown.activations.sum()))
