"""Which samples are manipulated, what their labels become, and where that does harm."""

import json
from pathlib import Path

import pytest
import torch

import cmu_lightning.data as package
from cmu_lightning.data import (
    SIG,
    AdapBlend,
    AdapPatch,
    AllToAll,
    AsymmetricNoise,
    Blended,
    CorruptedDataModule,
    DigitsDataModule,
    GaussianPoison,
    InterclassConfusion,
    LabelsFromFile,
    Manipulation,
    OneWayConfusion,
    RandomSwap,
    SymmetricNoise,
    TaCT,
    Unknown,
    WaNet,
    evaluation,
)
from cmu_lightning.data.batches import EvaluationBatches
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import DomainAccuracy
from tests.helpers.networks import Linear

CIFAR10_FLIPS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}


def shuffled(count=1000):
    return torch.arange(count)[torch.randperm(count, generator=torch.Generator().manual_seed(0))] % 10


LABELS = shuffled()


def drawn(manipulation):
    """S_m, its true labels and its given ones, as plain numbers."""
    manipulation.num_classes = 10
    chosen = manipulation.select(LABELS)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    return chosen.tolist(), LABELS[chosen].tolist(), manipulation.relabel(LABELS[chosen]).tolist()


def domains(manipulation):
    """Classes of affected and of unaffected test samples."""
    manipulation.num_classes = 10
    masks = manipulation.affected(LABELS), manipulation.unaffected(LABELS)
    return tuple(set(LABELS[mask].tolist()) for mask in masks)


ALL = set(range(10))


@pytest.mark.parametrize("make", [Blended, WaNet, SIG])
def test_backdoors_with_one_target(make):
    chosen, true, given = drawn(make(size=50, target=4))
    assert set(given) == {4}
    assert 4 in true
    assert chosen == package.Poison(size=50).select(LABELS).tolist()
    assert domains(make(size=50)) == (ALL, ALL)
    assert make(size=50, target=4).target_labels(LABELS).tolist() == [4] * 1000


def test_sig_with_clean_labels():
    _, true, given = drawn(SIG(size=50, target=4, clean_label=True))
    assert true == given == [4] * 50
    with pytest.raises(UserError, match=r"101 samples .* only 100"):
        SIG(size=101, clean_label=True).select(LABELS)


def test_all_to_all():
    _, true, given = drawn(AllToAll(size=200))
    assert given == [(label + 1) % 10 for label in true]
    assert 0 in given
    assert 9 in given
    assert domains(AllToAll(size=200)) == (ALL, ALL)
    manipulation = AllToAll(size=200)
    manipulation.num_classes = 10
    assert manipulation.target_labels(torch.tensor([0, 8, 9])).tolist() == [1, 9, 0]


@pytest.mark.parametrize("make", [TaCT, AdapBlend, AdapPatch])
def test_not_all_of_s_m_is_cover(make):
    manipulation = make(size=36, cover=0.99)
    manipulation.num_classes = 10
    labels = torch.arange(360) % 9 + 1
    chosen = labels[manipulation.select(labels)]
    assert int((manipulation.relabel(chosen) != chosen).sum()) == 1


def test_a_small_fraction_swaps_two():
    assert InterclassConfusion(pair=(3, 5), fraction=0.001).count(1197) == 2


def test_tact_relabels_its_source_and_covers_with_others():
    _, true, given = drawn(TaCT(size=40, source=7, target=2, cover=0.25))
    assert true.count(7) == given.count(2) == 30
    assert 2 not in true
    assert [label for label in true if label != 7] == [label for label in given if label != 2]
    assert domains(TaCT(size=40, source=7)) == ({7}, ALL)
    assert set(TaCT(size=40, source=7, target=2).target_labels(LABELS).tolist()) == {2}


@pytest.mark.parametrize("make", [AdapBlend, AdapPatch])
def test_cover_of_the_adaptive_backdoors_keeps_its_labels(make):
    _, true, given = drawn(make(size=80, target=4, cover=0.25))
    others = [(label, new) for label, new in zip(true, given, strict=True) if label != 4]
    kept = sum(label == new for label, new in others)
    relabelled = sum(new == 4 for _, new in others)
    assert kept + relabelled == len(others)
    assert kept <= 20
    assert relabelled <= 60
    assert kept > 10
    assert given == drawn(make(size=80, target=4, cover=0.25))[2]
    assert given != drawn(make(size=80, target=4, cover=0.25, seed=1))[2]
    assert domains(make(size=80)) == (ALL, ALL)


def test_random_swap_permutes_labels_within_s_m():
    _, true, given = drawn(RandomSwap(size=300))
    assert sorted(true) == sorted(given)
    assert 0.02 < sum(a == b for a, b in zip(true, given, strict=True)) / 300 < 0.2  # a tenth by chance
    assert given == drawn(RandomSwap(size=300))[2]
    assert given != drawn(RandomSwap(size=300, seed=1))[2]
    assert domains(RandomSwap(size=300)) == (ALL, set())
    assert RandomSwap(size=300).target_labels(LABELS) is None


def test_symmetric_noise_gives_every_other_class_alike():
    _, true, given = drawn(SymmetricNoise(fraction=0.9))
    further = [(new - label) % 10 for label, new in zip(true, given, strict=True)]
    assert set(further) == set(range(1, 10))
    assert [further.count(step) for step in range(1, 10)] == pytest.approx([100] * 9, rel=0.35)
    assert given != drawn(SymmetricNoise(fraction=0.9, seed=1))[2]
    assert domains(SymmetricNoise(size=3)) == (ALL, set())


def test_symmetric_noise_needs_another_class():
    noise = SymmetricNoise(size=2)
    noise.num_classes = 1
    with pytest.raises(UserError, match="another class, and the data have only one"):
        noise.relabel(torch.zeros(2, dtype=torch.long))


def test_asymmetric_noise_flips_what_it_is_told():
    chosen, true, given = drawn(AsymmetricNoise(size=100, flips=CIFAR10_FLIPS))
    assert given == [CIFAR10_FLIPS[label] for label in true]
    assert set(true) == CIFAR10_FLIPS.keys()
    assert domains(AsymmetricNoise(size=1, flips=CIFAR10_FLIPS)) == ({2, 3, 4, 5, 9}, {0, 1, 6, 7, 8})
    assert len(chosen) == 100


def test_asymmetric_noise_flips_pairs_when_told_nothing():
    _, true, given = drawn(AsymmetricNoise(size=200))
    assert given == [(label + 1) % 10 for label in true]
    assert domains(AsymmetricNoise(size=1)) == (ALL, set())


def test_one_way_confusion():
    _, true, given = drawn(OneWayConfusion((3, 5), size=60))
    assert true == [3] * 60
    assert given == [5] * 60
    assert domains(OneWayConfusion((3, 5), size=60)) == ({3}, ALL - {3})
    assert OneWayConfusion((3, 5), size=60).target_labels(LABELS[:2]).tolist() == [5, 5]


def test_gaussian_poison_keeps_labels_and_has_no_target():
    _, true, given = drawn(GaussianPoison(size=60))
    assert true == given
    assert domains(GaussianPoison(size=60)) == (ALL, set())
    assert GaussianPoison(size=60).target_labels(LABELS) is None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TaCT(size=4, source=0), "source=0"),
        (lambda: TaCT(size=4, cover=-0.5), "cover=-0.5"),
        (lambda: TaCT(size=300).select(LABELS), "150 samples .* only 100"),
        (lambda: OneWayConfusion((3, 3), size=2), "with itself"),
        (lambda: OneWayConfusion((12, 3), size=2).select(LABELS), "2 samples .* only 0"),
        (lambda: AsymmetricNoise(size=2, flips={3: 3}), "becomes itself"),
        (lambda: AsymmetricNoise(size=2, flips={}), "flips nothing"),
        (lambda: drawn(AsymmetricNoise(size=2, flips={12: 3})), "class 12, .* 0 to 9"),
    ],
)
def test_what_is_impossible_is_said(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_a_flip_to_no_class_is_refused_by_the_data():
    data = DigitsDataModule(AsymmetricNoise(size=2, flips={3: 12}))
    with pytest.raises(UserError, match=r"label 12 at .*, but the classes are 0 to 9"):
        data.setup()


def test_what_is_asked_where_harm_is_everywhere():
    data = DigitsDataModule(SymmetricNoise(size=300))
    data.setup()
    what = evaluation.of_test(data)
    assert what.names == ("acc_corr", "acc_retain")
    assert what.domain.sum(dim=0).tolist() == [397, 0]


def test_what_is_asked_of_one_way_confusion():
    data = DigitsDataModule(OneWayConfusion((3, 5), size=30))
    data.setup()
    what = evaluation.of_test(data)
    threes = int((data.test.labels == 3).sum())
    assert dict(zip(what.names, what.domain.sum(dim=0).tolist(), strict=True)) == {
        "acc_corr": threes,
        "acc_retain": 397 - threes,
        "acc_corr_nontarget": threes,
        "asr": threes,
        "acc_pair": int(torch.isin(data.test.labels, torch.tensor([3, 5])).sum()),
    }
    assert (what.target[:, what.names.index("asr")] == 5).all()


def test_a_choice_between_two_confused_classes():
    """Of equal logits the first class counts, and a network that says 5 of everything is right on half."""
    data = DigitsDataModule(InterclassConfusion((3, 5), size=30))
    data.setup()
    what = evaluation.of_test(data)
    confused = torch.isin(data.test.labels, torch.tensor([3, 5]))
    at, clean = what.names.index("acc_pair"), data.test.labels.repeat(2)
    assert torch.equal(what.rows[what.domain[:, at]], torch.nonzero(confused).flatten()), "each once"
    assert torch.equal(what.target.expand_as(what.domain)[:, at], clean[torch.cat([confused, ~confused])])
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)).round()
    predicted = what.predictions(logits)
    assert torch.equal(predicted[:, at], torch.tensor([3, 5])[logits[:, [3, 5]].argmax(1)])
    others = [column for column in range(len(what.names)) if column != at]
    assert torch.equal(predicted[:, others], logits.argmax(1, keepdim=True).expand(-1, len(others)))
    plain = what._replace(pair=None).predictions(logits)
    assert torch.equal(plain, logits.argmax(1))


@pytest.mark.parametrize("manipulation", [InterclassConfusion((3, 5), size=30), OneWayConfusion((3, 5), size=30)])
def test_the_choice_between_two_classes_is_exact_on_several_processes(manipulation):
    """Against a plain choice on the test images of the two classes; empty slices count nothing."""
    data = DigitsDataModule(manipulation)
    data.setup()
    torch.manual_seed(0)
    network, what, counted = Linear(144, 10), evaluation.of_test(data), torch.zeros(2, dtype=torch.long)
    metrics = [DomainAccuracy(len(what.names)) for _ in range(3)]
    for rank, metric in enumerate(metrics):
        for batch in EvaluationBatches(what, data.pixels(), rank, 3):
            metric.update(what.predictions(network(batch.image)), batch.target, batch.domain)
        at = what.names.index("acc_pair")
        counted += torch.stack([metric.correct[at], metric.total[at]])
    own = torch.isin(data.test.labels, torch.tensor([3, 5]))
    logits = network(data.pixels()(data.test.images[own], torch.zeros(int(own.sum()), dtype=torch.bool)))
    right = torch.where(logits[:, 3] >= logits[:, 5], 3, 5) == data.test.labels[own]
    assert counted.tolist() == [int(right.sum()), int(own.sum())]


NAMES = sorted(
    name
    for name in package.__all__
    if isinstance(kind := getattr(package, name), type) and issubclass(kind, Manipulation)
    if kind not in (Manipulation, Unknown, LabelsFromFile)  # the last has tests of its own: it needs a file
)


@pytest.mark.parametrize("name", NAMES)
def test_every_manipulation_takes_the_place_of_poison_in_its_setting(name, fit):
    pair = ("--data.manipulation.pair", "[3,5]") if name == "InterclassConfusion" else ()
    few = ("--procedure.steps", "2", "--runs_dir", "runs")
    assert fit("--data.manipulation", name, "--data.manipulation.size", "36", *pair, *few) == 0
    (path,) = Path("runs").rglob("metrics.json")
    stored = json.loads(path.read_text())
    assert (stored["manipulation"], stored["manipulated"]) == (name, 36)
    everywhere = name in ("AsymmetricNoise", "GaussianPoison", "RandomSwap", "SymmetricNoise")
    assert ("acc_retain" in stored) == (not everywhere)
    assert ("asr" in stored) == (name not in ("GaussianPoison", "InterclassConfusion", "RandomSwap", "SymmetricNoise"))


def test_the_number_of_classes_comes_from_the_data():
    class Wide(CorruptedDataModule):
        dataset = "wide"
        num_classes = 23
        mean = std = (0.5,)

    manipulation = AllToAll(size=1)
    wide, narrow = Wide(manipulation), DigitsDataModule(manipulation)  # one may serve several data sets
    assert wide.manipulation.relabel(torch.tensor([22, 9])).tolist() == [0, 10]
    assert narrow.manipulation.relabel(torch.tensor([8, 9])).tolist() == [9, 0]
