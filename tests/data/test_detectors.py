"""S_f as what a detector flags, looking at the original."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cmu_lightning.cli.fit import main
from cmu_lightning.data import (
    ActivationClustering,
    Detector,
    DigitsDataModule,
    Inspection,
    LossRanking,
    Poison,
    PULearning,
    Similarity,
    SpectralSignatures,
    Unknown,
)
from cmu_lightning.data.discoveries.positive_unlabelled import suspect
from cmu_lightning.data.sampling import held_out
from cmu_lightning.errors import UserError
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import CF, PURE, Original, SalUn
from tests.helpers.short_stages import LINEAR, SHORT, CheckpointAfter, equal_tensors, trainer, weights

FLAGGING = {
    "spectral": SpectralSignatures,
    "clustering": ActivationClustering,
    "loss": LossRanking,
    "similarity": lambda **more: Similarity(known=5, **more),
    "positive-unlabelled": lambda **more: PULearning(known=5, **more),
}


@pytest.fixture(scope="module")
def data():
    """60 of 1,197 digits poisoned, and no S_f."""
    made = DigitsDataModule(Poison(size=60), discovery=LossRanking(count=60))
    made.setup()
    return made


@pytest.fixture(scope="module")
def network():
    """Untrained: its features are as good as any to compare arithmetic on."""
    torch.manual_seed(0)
    return ResNet9(10, 1, width=4)


@pytest.fixture
def seen(data, network):
    return Inspection(network, data.samples, data.pixels())


@pytest.fixture(scope="module")
def features(data, network):
    """By hand: one image after the other, all but the last layer."""
    images, stamped = data.samples.images, data.samples.manipulated
    rows = [data.pixels()(images[at : at + 1], stamped[at : at + 1], torch.tensor([at])) for at in range(len(images))]
    with torch.no_grad():
        return np.concatenate([network.eval().features(row).numpy() for row in rows]).astype(float)


def as_indices(scores, count):
    return sorted(range(len(scores)), key=lambda at: (-scores[at], at))[:count]


def test_features_are_the_last_layer_s_input_and_the_network_is_left_alone(seen, features, network):
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert seen.features().shape == (1197, 8)
    assert seen.features().numpy() == pytest.approx(features, abs=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network.classifier._forward_pre_hooks


def test_looking_has_a_bar(seen, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    seen.losses()
    assert "detecting" in capsys.readouterr().err


def test_spectral_signatures_are_squared_projections_on_the_first_singular_vector(seen, data):
    features, labels = seen.features().numpy(), data.samples.given_labels.numpy()
    expected = np.zeros(1197)
    for label in range(10):
        own = features[labels == label] - features[labels == label].mean(0)
        values, vectors = np.linalg.eigh(own.T @ own)
        assert values[-1] > values[-2]
        expected[labels == label] = (own @ vectors[:, -1]) ** 2
    scores = SpectralSignatures(count=50).scores(seen, np.random.RandomState(0)).numpy()
    assert scores == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert SpectralSignatures(count=50).detect(seen, 0).tolist() == as_indices(expected, 50)
    alone = SpectralSignatures([3], count=50).detect(seen, 0)
    threes = np.flatnonzero(labels == 3)
    assert alone.tolist() == threes[as_indices(expected[threes], 50)].tolist()
    everyone = SpectralSignatures([3], count=1197).detect(seen, 0)[len(threes) :].tolist()
    assert everyone == np.flatnonzero(labels != 3).tolist()  # the others last, in their order


def test_clusters_are_those_of_2_means_on_principal_components(seen, data):
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_samples

    features, labels, random = seen.features().numpy(), data.samples.given_labels.numpy(), np.random.RandomState(7)
    ranked = []
    for label in range(10):
        members = np.flatnonzero(labels == label)
        reduced = PCA(8).fit_transform(features[members])
        found = KMeans(2, n_init=10, random_state=random.randint(2**31)).fit_predict(reduced)
        silhouettes = silhouette_samples(reduced, found)
        small = np.argmin(np.bincount(found))
        order = sorted(np.flatnonzero(found == small), key=lambda at: -silhouettes[at])
        rest = sorted(np.flatnonzero(found != small), key=lambda at: silhouettes[at])
        ranked.append((silhouettes.mean(), members[order].tolist(), members[rest].tolist()))
    ranked.sort(reverse=True)
    expected = [at for _, order, _ in ranked for at in order] + [at for *_, rest in ranked for at in rest]
    assert ActivationClustering(count=1197).detect(seen, 7).tolist() == expected
    _, order, rest = next(each for each in ranked if labels[each[1][0]] == 0)
    assert len(order) < len(rest)


def test_clustering_takes_ten_components_and_finds_two_heaps(data):
    """A heap of 20 far from the rest of its class, in one of 30 dimensions; no other class has two."""
    random = np.random.RandomState(0)
    features = torch.from_numpy(random.normal(size=(1197, 30)))
    heap = torch.nonzero(data.samples.given_labels == 4).flatten()[:20]
    features[heap, 5] += 40

    class Given(Inspection):
        def features(self):
            return features

    found = ActivationClustering(count=20).detect(Given(nn.Identity(), data.samples, data.pixels()), 0)
    assert sorted(found.tolist()) == heap.tolist()


def test_clustering_flags_nobody_where_all_are_equal(data):
    class Given(Inspection):
        def features(self):
            return torch.ones(1197, 3, dtype=torch.float64)

    equal = ActivationClustering(count=5).detect(Given(nn.Identity(), data.samples, data.pixels()), 0)
    assert equal.tolist() == [0, 1, 2, 3, 4]


def test_losses_are_those_of_the_given_labels(seen, data, network):
    images, labels, stamped = data.samples.images, data.samples.given_labels, data.samples.manipulated
    with torch.no_grad():
        outputs = network.eval()(data.pixels()(images, stamped, torch.arange(1197)))
    expected = cross_entropy(outputs, labels, reduction="none")
    assert seen.losses().numpy() == pytest.approx(expected.numpy(), abs=1e-4)
    high = LossRanking(count=30).detect(seen, 0)
    assert high.tolist() == as_indices(seen.losses().tolist(), 30)
    low = LossRanking("lowest", count=1167).detect(seen, 0)
    assert not set(high.tolist()) & set(low.tolist())


@pytest.mark.parametrize("to", ["nearest", "mean"])
def test_similarity_is_the_cosine_to_known_samples_of_the_same_label(seen, data, to):
    """Known ones are the paper's S_f of the same seed; they come first."""
    features, labels = seen.features().numpy(), data.samples.given_labels.numpy()
    uniform = DigitsDataModule(Poison(size=60), identified=0.1, seed=3)
    uniform.setup()
    known = np.flatnonzero(uniform.samples.deleted.numpy())
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.full(1197, -9.0)
    for at in range(1197):
        alike = [directions[each] for each in known if labels[each] == labels[at]]
        if at not in known and alike:
            mean = np.mean(alike, axis=0)
            to_mean = directions[at] @ mean / np.linalg.norm(mean)
            expected[at] = max(directions[at] @ each for each in alike) if to == "nearest" else to_mean
    found = Similarity(known_fraction=0.1, to=to, count=40).detect(seen, 3).tolist()
    assert set(found[:6]) == set(known)
    assert found[6:] == as_indices(expected, 34)
    assert found == Similarity(known=6, to=to, count=40).detect(seen, 3).tolist()
    assert set(labels[found]) == {0}  # the target's class: that of all poisoned samples


def test_similarity_to_a_list_where_nobody_knows_more(tmp_path):
    """The list counts stored samples; what it names is known, never validates and comes first."""
    held = torch.nonzero(held_out(DigitsDataModule(Unknown()).load()[0].labels, 203)).flatten().tolist()
    Path("list.txt").write_text(f"{held[0]}\n7\n12\n")
    data = DigitsDataModule(Unknown(), discovery=Similarity(path="list.txt", count=30))
    network = LINEAR()
    torch.save(network.state_dict(), "own.pt")
    trainer(tmp_path).fit(CF(LINEAR, SHORT, original="own.pt"), datamodule=data)
    trained = torch.nonzero(~data.held).flatten()
    assert held[0] in trained.tolist()
    assert len(trained) == 1198
    known = torch.isin(trained, torch.tensor([held[0], 7, 12]))
    seen = Inspection(network, data.samples._replace(deleted=known), data.pixels())
    expected = data.discovery.detect(seen, 0)
    assert set(trained[expected[:3]].tolist()) == {held[0], 7, 12}
    assert torch.nonzero(data.samples.deleted).flatten().tolist() == sorted(expected.tolist())
    assert data.content().keys() == {"discovery.path"}
    with pytest.raises(UserError, match=r"give one of discovery.known .* and discovery.path"):
        Similarity(known=3, path="list.txt", count=30)


def test_probes_decide_how_many_are_flagged(seen, data):
    """Known samples come first, then those that the probes on the original's look give more than 1/2."""
    labels, members = data.samples.given_labels, torch.nonzero(data.samples.manipulated).flatten()
    known = members[torch.from_numpy(np.random.RandomState(3).permutation(60))[:12]]
    rows = torch.nonzero(torch.isin(labels, labels[known])).flatten()
    probability = suspect([seen.look(rows)], labels[rows], torch.isin(rows, known)).probability
    found = PULearning(known=12).detect(seen, 3).tolist()
    assert found[:12] == known.tolist()
    assert set(found) == set(rows[probability > 0.5].tolist())
    assert 12 < len(found) < len(rows)
    assert PULearning(known_fraction=0.2).detect(seen, 3).tolist() == found
    assert PULearning(known=12, count=13).detect(seen, 3).tolist() == found[:13]


@pytest.mark.parametrize("make", FLAGGING.values(), ids=FLAGGING)
def test_larger_sets_hold_smaller_ones_up_to_all_of_s_tr(make, seen):
    sets = [make(count=count).detect(seen, 0).tolist() for count in (1, 40, 600, 1197)]
    assert [len(set(found)) for found in sets] == [1, 40, 600, 1197]
    assert all(large[: len(small)] == small for small, large in pairwise(sets))
    assert make(fraction=0.1).detect(seen, 0).tolist() == make(count=120).detect(seen, 0).tolist()
    assert len(make(fraction=1.0).detect(seen, 0)) == 1197


class HeadFirst(nn.Module):
    """Registered in another order than run, with a part that is not run."""

    def __init__(self):
        super().__init__()
        self.head, self.hidden, self.auxiliary = nn.Linear(8, 10), nn.Linear(144, 8), nn.Linear(8, 10)

    def forward(self, images):
        return self.head(self.hidden(images.flatten(1)).relu())


def test_the_last_linear_layer_is_the_one_that_runs_last(data, seen):
    network = HeadFirst()
    found = Inspection(network, data.samples, data.pixels()).features()
    images = seen.pixels(data.samples.images, data.samples.manipulated, torch.arange(len(data.samples.images)))
    with torch.no_grad():
        expected = network.hidden(images.flatten(1)).relu()
    torch.testing.assert_close(found, expected.double(), atol=1e-5, rtol=1e-4)
    assert not any(module._forward_pre_hooks for module in network.modules())


class Convolutional(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 10, 12), nn.Flatten())


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda seen: LossRanking(), "neither is given"),
        (lambda seen: LossRanking(count=3, fraction=0.1), "count=3 and fraction=0.1 are given"),
        (lambda seen: LossRanking(count=0), "count=0"),
        (lambda seen: LossRanking(fraction=1.5), "fraction=1.5"),
        (lambda seen: LossRanking(count=1198).detect(seen, 0), "count=1198 cannot be flagged of 1197"),
        (lambda seen: LossRanking(fraction=1e-4).detect(seen, 0), "fraction=0.0001 cannot"),
        (lambda seen: SpectralSignatures([10], count=1).detect(seen, 0), "labelled 10"),
        (lambda seen: Similarity(count=9), "one of discovery.known"),
        (lambda seen: Similarity(3, 0.1, count=9), "one of discovery.known"),
        (lambda seen: PULearning(), "one of discovery.known"),
        (lambda seen: PULearning(known=5, count=3, fraction=0.1), "count=3 and fraction=0.1 are given"),
        (lambda seen: Similarity(known_fraction=2.0, count=9), "known_fraction=2.0"),
        (
            lambda seen: Similarity(known=61, count=99).detect(seen, 0),
            "known=61 of 60 manipulated samples is not possible",
        ),
        (lambda seen: Similarity(known_fraction=1e-3, count=9).detect(seen, 0), "known_fraction=0.001 of 60"),
        (lambda seen: DigitsDataModule(Poison(size=60), 0.5, discovery=LossRanking(count=9)), "count=9 or identified"),
        (lambda seen: DigitsDataModule(Poison(size=60), 0.5, discovery=LossRanking(fraction=0.1)), "fraction=0.1 or"),
        (lambda seen: Inspection(Convolutional(), seen.samples, seen.pixels).features(), "no linear layer"),
    ],
)
def test_what_cannot_be_flagged_is_said(ask, says, seen):
    with pytest.raises(UserError, match=says):
        ask(seen)


def test_under_a_plain_trainer_s_f_is_what_the_original_shows(original, tmp_path):
    data = DigitsDataModule(Poison(size=36), discovery=LossRanking(count=50))
    trainer(tmp_path).fit(CF(LINEAR, SHORT, original), datamodule=data)
    network = LINEAR()
    network.load_state_dict({key.removeprefix("network."): value for key, value in weights(original).items()})
    expected = LossRanking(count=50).detect(Inspection(network, data.samples, data.pixels()), 0)
    assert set(torch.nonzero(data.samples.deleted).flatten().tolist()) == set(expected.tolist())
    assert data.identified == int(data.samples.manipulated[expected].sum()) / 36


def test_every_stage_s_original_is_looked_at_anew(original, tmp_path):
    """Whatever ran on the same data before."""
    discovery = Similarity(path="list.txt", count=30)
    fresh = DigitsDataModule(Poison(size=36), discovery=LossRanking(count=50))
    trainer(tmp_path).fit(CF(LINEAR, SHORT, original), datamodule=fresh)
    expected = fresh.samples.deleted.clone()

    used = DigitsDataModule(Poison(size=36), discovery=LossRanking(count=50))
    run = trainer(tmp_path)
    run.fit(Original(LINEAR, SHORT, seed=5), datamodule=used)
    run.save_checkpoint(tmp_path / "other.ckpt", weights_only=True)
    trainer(tmp_path).fit(CF(LINEAR, SHORT, str(tmp_path / "other.ckpt")), datamodule=used)
    assert not torch.equal(used.samples.deleted, expected)
    trainer(tmp_path).fit(CF(LINEAR, SHORT, original), datamodule=used)
    assert torch.equal(used.samples.deleted, expected)

    Path("list.txt").write_text("\n".join(map(str, torch.nonzero(~used.held).flatten()[:3].tolist())))
    listed = DigitsDataModule(Poison(size=36), discovery=discovery)
    listed.setup()
    assert int(listed.samples.deleted.sum()) == 3
    for _ in range(2):
        trainer(tmp_path).fit(CF(LINEAR, SHORT, original), datamodule=listed)
        assert int(listed.samples.deleted.sum()) == 30


class Wavering(LossRanking):
    """A detector that flags other samples the next time, as on another machine it may."""

    times = 0

    def scores(self, seen, random):
        self.times += 1
        return super().scores(seen, random) * (-1) ** self.times


@pytest.mark.parametrize("method", [CF, PURE, SalUn])
def test_a_resumed_run_keeps_the_samples_that_its_detector_flagged(method, original, tmp_path):
    discovery, path = Wavering(count=40), tmp_path / "middle.ckpt"
    whole, data = method(LINEAR, SHORT, original), DigitsDataModule(Poison(size=36), discovery=discovery)
    trainer(tmp_path, CheckpointAfter(path, 4)).fit(whole, datamodule=data)
    resumed, again = method(LINEAR, SHORT, original), DigitsDataModule(Poison(size=36), discovery=discovery)
    again.resume(torch.load(path, weights_only=True)["DigitsDataModule"])
    trainer(tmp_path).fit(resumed, datamodule=again, ckpt_path=str(path), weights_only=True)
    assert discovery.times == 1
    assert torch.equal(again.samples.deleted, data.samples.deleted)
    assert equal_tensors(dict(whole.network.state_dict()), dict(resumed.network.state_dict()))
    assert whole.samples_forward == resumed.samples_forward


def test_another_s_f_than_a_checkpoint_s_is_refused(original, tmp_path):
    discovery, path = Wavering(count=40), tmp_path / "middle.ckpt"
    data = DigitsDataModule(Poison(size=36), discovery=discovery)
    trainer(tmp_path, CheckpointAfter(path, 4)).fit(CF(LINEAR, SHORT, original), datamodule=data)
    with pytest.raises(UserError, match=r"another deletion set \(S_f\)"):
        trainer(tmp_path).fit(CF(LINEAR, SHORT, original), data, ckpt_path=str(path), weights_only=True)


def test_a_detector_s_look_is_a_part_of_the_cost(original, tmp_path):
    known, found = CF(LINEAR, SHORT, original), CF(LINEAR, SHORT, original)
    trainer(tmp_path).fit(known, datamodule=DigitsDataModule(Poison(size=36)))
    trainer(tmp_path).fit(found, datamodule=DigitsDataModule(Poison(size=36), discovery=LossRanking(count=36)))
    assert found.samples_forward - known.samples_forward == 1197


def test_s_f_is_drawn_once(original, tmp_path):
    data = DigitsDataModule(Poison(size=36), identified=0.5)
    trainer(tmp_path).fit(CF(LINEAR, SHORT, original), datamodule=data)
    data.identified = 0.25
    with pytest.raises(UserError, match="was changed after S_f had been drawn: make a new data module"):
        trainer(tmp_path).fit(CF(LINEAR, SHORT, original), datamodule=data)


def test_an_original_has_no_s_f_to_look_for(tmp_path):
    data = DigitsDataModule(Poison(size=36), discovery=LossRanking(count=50))
    trainer(tmp_path).fit(Original(LINEAR, SHORT), datamodule=data)
    assert not data.samples.deleted.any()


class First(Detector):
    """Flags the first samples."""

    def scores(self, seen, random):
        return -torch.arange(len(seen.labels), dtype=torch.float64)


def stored(method):
    return [json.loads(path.read_text()) for path in Path("runs").glob(f"poison_digits/{method}/*/metrics.json")]


CF_OF = ("--config", "unlearn/cf.yaml", "--runs_dir", "runs", "--data.discovery")


def test_precision_and_recall_are_stored_and_test_finds_the_same(runs, fit, capsys):
    shutil.copytree(runs, "runs")
    assert fit(*CF_OF, "tests.data.test_detectors.First", "--data.discovery.count", "200") == 0
    (run,), (before,) = stored("CF"), stored("Original")
    data = DigitsDataModule(Poison(size=36))
    data.setup()
    right = int(data.samples.manipulated[:200].sum())
    assert 0 < right < 36
    assert (run["deleted"], run["false_positives"], run["identified"]) == (200, 200 - right, right / 36)
    assert (run["discovery_precision"], run["discovery_recall"]) == (right / 200, right / 36)
    assert run["original"] == before["hash"]
    (folder,) = Path("runs").glob("poison_digits/CF/*")
    capsys.readouterr()
    assert main(["test", "--config", f"{folder}/config.yaml", "--ckpt_path", f"{folder}/last.ckpt"]) == 0
    (folder / "metrics.json").unlink()  # as if killed between training and measuring
    assert fit(*CF_OF, "tests.data.test_detectors.First", "--data.discovery.count", "200") == 0
    (again,) = stored("CF")
    assert {key for key in run if run[key] != again[key]} <= {"seconds", "environment"}


@pytest.mark.parametrize(
    "discovery",
    [
        ("SpectralSignatures", "--data.discovery.classes", "[0]", "--data.discovery.count", "36"),
        ("ActivationClustering", "--data.discovery.fraction", "0.03"),
        ("LossRanking", "--data.discovery.first", "lowest", "--data.discovery.count", "36"),
        ("Similarity", "--data.discovery.known_fraction", "0.1", "--data.discovery.count", "36"),
        ("PULearning", "--data.discovery.known_fraction", "0.1", "--data.discovery.count", "36"),
    ],
    ids=lambda discovery: discovery[0],
)
def test_every_detector_runs_from_the_command_line(discovery, runs, fit):
    shutil.copytree(runs, "runs")
    assert fit(*CF_OF, *discovery) == 0
    (run,) = stored("CF")
    assert run["deleted"] == 36
    assert run["discovery_recall"] == run["identified"] == run["discovery_precision"]
    assert len(stored("Original")) == 1


def test_a_detector_that_finds_nothing_of_s_m(runs, fit):
    shutil.copytree(runs, "runs")
    data = DigitsDataModule(Poison(size=36))
    data.setup()
    clean = int(torch.nonzero(data.samples.manipulated)[0])
    assert fit(*CF_OF, "tests.data.test_detectors.First", "--data.discovery.count", str(clean)) == 0
    (run,) = stored("CF")
    assert (run["identified"], run["discovery_precision"], run["false_positives"]) == (0, 0, clean)
    assert "acc_identified" not in run
    assert 0 <= run["changed"] <= 1


def test_a_mistake_is_one_sentence(runs, fit, capsys):
    shutil.copytree(runs, "runs")
    for wrong in (["LossRanking"], ["LossRanking", "--data.discovery.count", "5", "--data.identified", "0.5"]):
        assert fit(*CF_OF, *wrong) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    assert not stored("CF")
