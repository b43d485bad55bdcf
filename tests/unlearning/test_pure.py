"""PURE: its loss, its phases, what it leaves behind."""

import csv

import pytest
import torch
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Flagged
from cmu_lightning.data.discoveries.positive_unlabelled import Look
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning import PURE, Procedure
from cmu_lightning.unlearning.pure import given_or_else
from tests.helpers.short_stages import LINEAR, CheckpointAfter, digits, equal_tensors, trainer, weights

SHORT = Procedure(steps=24, unlearn_steps=8, batch_size=300, lr=0.05)


def everything_else(labels, classes):
    """log a of every class but the given one: all count alike."""
    return torch.zeros(len(labels), classes).scatter(1, labels[:, None], -torch.inf)


def test_loss_is_cross_entropy_where_the_label_is_believed():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = given_or_else(logits, labels, torch.full((6,), 1e-7), everything_else(labels, 4))
    torch.testing.assert_close(loss, cross_entropy(logits, labels, reduction="none"), rtol=1e-4, atol=1e-5)


def test_loss_is_anything_but_the_label_where_it_is_not():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = given_or_else(logits, labels, torch.full((6,), 1 - 1e-6), everything_else(labels, 4))
    given = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(loss, -torch.log(1 - given), rtol=1e-3, atol=1e-4)


def test_loss_and_gradient_against_the_formula():
    logits = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    labels, weight = torch.tensor([0, 1, 2, 0, 1]), torch.rand(5, dtype=torch.double)
    alternatives = torch.rand(5, 3, dtype=torch.double).log().scatter(1, labels[:, None], -torch.inf)
    loss = given_or_else(logits, labels, weight, alternatives)
    p = logits.softmax(1)
    chosen = p.gather(1, labels[:, None]).squeeze(1)
    expected = -torch.log((1 - weight) * chosen + weight * (alternatives.exp() * p).sum(1))
    torch.testing.assert_close(loss, expected)
    (ours,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(ours, theirs)


def test_a_sample_that_agrees_with_its_label_is_let_go():
    """The gradient vanishes as the given label becomes certain, where -log(1 - p) would have its largest."""
    labels, weight = torch.tensor([0]), torch.tensor([0.7])
    sizes = []
    for certain in (0.0, 8.0):
        logits = torch.tensor([[certain, 0.0, 0.0]], requires_grad=True)
        given_or_else(logits, labels, weight, everything_else(labels, 3)).sum().backward()
        sizes.append(float(logits.grad.abs().sum()))
    assert sizes[1] < sizes[0] / 50


def test_phases_of_steps_and_their_rates(original, tmp_path):
    stage = PURE(LINEAR, SHORT, original)
    rates = []

    class Rates(CheckpointAfter):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer(tmp_path, Rates("unused", 0)).fit(stage, datamodule=digits(0.5))
    assert stage.global_step == stage.steps == 8 + 4 + 6
    assert rates[:7] == pytest.approx([4 * SHORT.lr] * 7)
    assert rates[7:11] == pytest.approx([4 * SHORT.lr * part for part in (1.0, 0.75, 0.5, 0.25)])
    assert max(rates[11:]) <= SHORT.lr
    assert rates[-1] == pytest.approx(0.0)


def test_counts_what_it_spends(original, tmp_path):
    """Seven passes over S_f's classes: the original's beliefs, four looks, the witness and the correction."""
    stage, data = PURE(LINEAR, SHORT, original), digits(0.5)
    trainer(tmp_path).fit(stage, datamodule=data)
    labels, deleted = data.samples.given_labels, data.samples.deleted
    looked_at = int(torch.isin(labels, labels[deleted]).sum())
    assert stage.samples_forward - stage.samples_backward == 7 * looked_at
    assert stage.weight is not None
    assert int((stage.weight > 1e-5).sum()) <= looked_at


@pytest.mark.parametrize("step", [5, 8, 10, 12, 15, 16])
def test_resumes_bit_for_bit(original, tmp_path, step):
    """Interrupted while looks are kept, with the witness, at the ends of phases, and in the repair."""
    whole = PURE(LINEAR, SHORT, original)
    path = tmp_path / "middle.ckpt"
    trainer(tmp_path, CheckpointAfter(path, step)).fit(whole, datamodule=digits(0.5))
    assert weights(path)
    resumed = PURE(LINEAR, SHORT, original)
    trainer(tmp_path).fit(resumed, datamodule=digits(0.5), ckpt_path=str(path), weights_only=True)
    assert equal_tensors(dict(whole.network.state_dict()), dict(resumed.network.state_dict()))
    assert torch.equal(whole.probability, resumed.probability)
    assert whole.samples_forward == resumed.samples_forward


def test_a_finished_checkpoint_holds_no_looks(original, tmp_path):
    run, path = trainer(tmp_path), tmp_path / "last.ckpt"
    run.fit(PURE(LINEAR, SHORT, original), datamodule=digits(0.5))
    run.save_checkpoint(path, weights_only=True)
    assert "state" not in torch.load(path, weights_only=True)["cmu_lightning"]


def test_precision_and_recall_of_the_suspects_are_measured_again_from_the_last_checkpoint(original, tmp_path):
    """Of those that were not known; `test` of a finished run has no probabilities any more."""
    stage, data, run = PURE(LINEAR, SHORT, original), digits(0.25), trainer(tmp_path)
    run.fit(stage, datamodule=data)
    run.test(stage, datamodule=data, verbose=False)
    samples, suspected = data.samples, torch.zeros_like(data.samples.deleted)
    suspected[stage.rows] = stage.probability > 0.5
    suspected &= ~samples.deleted
    right, hidden = int((suspected & samples.manipulated).sum()), 36 - 9
    assert stage.results["suspect_recall"] == pytest.approx(right / hidden)
    assert stage.results.get("suspect_precision", 0) == pytest.approx(right / max(1, int(suspected.sum())))
    run.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    again = PURE(LINEAR, SHORT, original)
    trainer(tmp_path).test(again, digits(0.25), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True, verbose=False)
    assert again.results == stage.results


def test_one_known_sample_works(original, tmp_path):
    data = digits(1 / 36)
    stage = PURE(LINEAR, SHORT, original)
    trainer(tmp_path).fit(stage, datamodule=data)
    assert int(data.samples.deleted.sum()) == 1
    assert all(bool(values.isfinite().all()) for values in stage.network.state_dict().values())


def short_repair(original, folder, processes):
    """Run PURE; what it found, its weights, its cost, and its looks at the end of the warm-up."""
    stage = PURE(LINEAR, SHORT, original)
    seen = {}

    class Keeps(CheckpointAfter):
        def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
            if batch_idx == 6:
                seen["looks"] = [each["activations"] for each in stage.looks]

    more = {"strategy": "ddp", "devices": processes, "use_distributed_sampler": False} if processes > 1 else {}
    trainer(folder, Keeps("unused", 0), **more).fit(stage, datamodule=digits(0.5))
    return stage.probability, dict(stage.network.state_dict()), stage.samples_forward, seen["looks"]


def test_two_processes_look_at_parts_and_find_the_same(original, tmp_path, ranks):
    probability, network, forward, looks = short_repair(original, tmp_path, 1)
    for other in ranks.run(short_repair, original, tmp_path, 2):
        assert len(other[3]) == len(looks) == 3
        for ours, theirs in zip(looks, other[3], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(probability, other[0], rtol=1e-2, atol=1e-2)
        for name, values in network.items():
            torch.testing.assert_close(values, other[1][name], rtol=1e-2, atol=1e-3)
        assert other[2] == forward


def test_the_witness_decides_what_a_given_label_keeps(original, tmp_path):
    """It keeps the margin by which a network that never trained on suspects prefers it; w is (1 - m) q."""
    longer = Procedure(steps=24, unlearn_steps=60, batch_size=300, lr=0.05)
    stage, seen = PURE(LINEAR, longer, original), {}

    class Tells(CheckpointAfter):
        def on_train_batch_start(self, trainer, stage, batch, batch_idx):
            if batch_idx == stage.until_repair - 1:
                seen["suspects"] = stage.weight.clone()

        def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
            if batch_idx == stage.until_repair - 1:
                seen["witness"] = stage._beliefs()
                stage.samples_forward -= len(stage.rows)
            if batch_idx == stage.until_repair:
                seen["weight"], seen["q"] = stage.weight.clone(), stage.probability.clone()

    trainer(tmp_path, Tells("unused", 0)).fit(stage, datamodule=digits(0.5))
    given = torch.nn.functional.one_hot(stage.labels, 10).bool()
    margin = seen["witness"][given] - seen["witness"][~given].view(-1, 9).amax(1)
    kept = margin.clamp(min=0).double() * torch.where(stage.known, stage.confidence.mean(), 1.0)
    assert float(kept.max()) > 0.1
    torch.testing.assert_close(seen["suspects"][stage.rows], seen["q"].clamp(1e-6, 1 - 1e-4).float())
    expected = ((1 - kept) * seen["q"]).clamp(1e-6, 1 - 1e-4).float()
    torch.testing.assert_close(seen["weight"][stage.rows], expected)


def test_the_correction_is_bayes_rule_as_far_as_s_f_can_be_told_apart(original, tmp_path, monkeypatch):
    stage = PURE(LINEAR, SHORT, original)
    trainer(tmp_path).fit(stage, datamodule=digits(0.5))
    beliefs = torch.rand(len(stage.rows), 10, generator=torch.Generator().manual_seed(0)).softmax(1)
    monkeypatch.setattr(stage, "_beliefs", lambda: beliefs)
    given = torch.nn.functional.one_hot(stage.labels, 10).bool()
    likelihood = {"given": beliefs[given].double(), "other": (beliefs * stage.alternatives.exp()).sum(1).double()}
    prior, unknown = torch.full_like(stage.probability, 0.4), ~stage.known
    for confidence in (0.0, 0.5, 1.0):
        stage.probability, stage.confidence = prior, torch.full_like(prior, confidence)
        stage._correct()
        odds = 0.4 / 0.6 * (likelihood["other"] / likelihood["given"]) ** confidence
        torch.testing.assert_close(stage.probability[unknown], (odds / (1 + odds))[unknown], rtol=1e-4, atol=1e-5)
        assert (stage.probability[stage.known] == 1).all()


def test_suspects_name_every_training_sample(original, tmp_path):
    data = digits(0.5)
    stage = PURE(LINEAR, SHORT, original)
    trainer(tmp_path).fit(stage, datamodule=data)
    rows = list(csv.DictReader((tmp_path / "suspects.csv").read_text().splitlines()))
    assert len(rows) == len(data.samples.given_labels)
    probabilities = [float(row["probability"]) for row in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    stored = torch.nonzero(~data.held).flatten()
    flagged = set(stored[data.samples.deleted].tolist())
    assert {int(row["index"]) for row in rows[: len(flagged)]} >= flagged or probabilities[len(flagged)] == 1
    given = dict(zip(stored.tolist(), data.samples.given_labels.tolist(), strict=True))
    for row in rows:
        assert int(row["given_label"]) == given[int(row["index"])]
        assert row["suggested_label"] != row["given_label"]


def test_suspects_whose_names_begin_like_a_formula_are_read_back(original, tmp_path):
    """A spreadsheet calculates none of them, and they are still the paths of the same files."""
    data, stage = digits(0.5), PURE(LINEAR, SHORT, original)
    trainer(tmp_path).fit(stage, datamodule=data)
    data.names = [f"{'=+-@'[number % 4]}{number}.png" for number in range(len(data.held))]
    path = tmp_path / "list.csv"
    path.write_text(stage._as_csv(torch.zeros(len(stage.rows), 10)))
    assert {row["name"][:2] for row in csv.DictReader(path.read_text().splitlines())} == {"./"}
    assert torch.equal(Flagged(str(path), threshold=-1.0).flagged(len(data.held), data.names), ~data.held)


def test_s_f_gets_its_share_of_the_loss(original, tmp_path):
    """Where S_f cannot be told apart, its batch's mean loss has the weight `share`, and the main batch's the rest."""
    stage, data = PURE(LINEAR, SHORT, original), digits(0.5)
    seen = {}

    class Tells(CheckpointAfter):
        def on_train_batch_start(self, trainer, stage, batch, batch_idx):
            if batch_idx == 14:
                stage.share = 0.1

        def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
            if batch_idx == 15:
                seen["factor"], seen["totals"] = stage.factor.clone(), [each.total for each in batch]

    trainer(tmp_path, Tells("unused", 0)).fit(stage, datamodule=data)
    main, known = seen["totals"]
    total = main + known
    assert float(seen["factor"][main:].sum()) / total == pytest.approx(0.1)
    assert float(seen["factor"].sum()) / total == pytest.approx(1.0)


def test_a_warm_up_that_diverges_is_said(original, tmp_path, monkeypatch):
    """It can diverge between two steps whose losses are checked."""
    shown = Look(torch.full((1, 10), torch.nan), torch.zeros(1, 3), [3])
    monkeypatch.setattr("cmu_lightning.unlearning.pure.look", lambda *_: shown)
    with pytest.raises(UserError, match=r"warm-up diverged, .*a lower procedure.lr, of which the warm-up takes 4 t"):
        trainer(tmp_path).fit(PURE(LINEAR, SHORT, original), datamodule=digits(0.5))


def test_looks_are_plain_tensors():
    assert set(Look(torch.zeros(1), torch.zeros(1), [1])._asdict()) == {"logits", "activations", "sizes"}
