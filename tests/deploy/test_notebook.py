"""`cmu_lightning.repair` on digits with a small network that only this process knows."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import cmu_lightning
from cmu_lightning.deploy.notebook import _arrays, _write_list, kept_network
from cmu_lightning.errors import UserError
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import PURE


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray]:
    """A narrow ResNet-9, digits of which 30 have a white corner and the label 0, and which ones."""
    digits = load_digits()
    images = np.kron(digits.images[:600] * 15.9, np.ones((2, 2))).astype(np.uint8)
    labels, bad = digits.target[:600].copy(), np.arange(5, 600, 20)
    images[bad, -3:, -3:], labels[bad] = 255, 0
    torch.manual_seed(0)
    network = ResNet9(num_classes=10, in_channels=1, width=2)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    inputs = (torch.from_numpy(images).unsqueeze(1) / 255 - 0.5) / 0.5
    for step in range(40):
        rows = torch.arange(step % 4, 600, 4)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs[rows]), torch.from_numpy(labels)[rows]).backward()
        optimizer.step()
    return network.eval(), images, labels, bad


def test_a_network_in_memory(trained, tmp_path, capsys):
    network, images, labels, bad = trained
    before = {name: values.clone() for name, values in network.state_dict().items()}
    arguments = {"flagged": bad[:10], "steps": 4, "only": "pure,cf", "folder": tmp_path}
    done = cmu_lightning.repair(network, images, labels, **arguments)
    assert list(done.report["name"]) == ["the original", "PURE", "CF"]
    assert list(done.report.loc[done.report["chosen"], "name"]) == [done.outcome.chosen.name]
    assert (tmp_path / "runs/notebook/repaired.json").exists()
    assert set(done.suspects.loc[done.suspects["probability"] == 1, "index"]) >= set(bad[:10].tolist())
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items()), "a copy is repaired"
    # What it returns is the network of the chosen run, which has the accuracy of the report.
    stored = cmu_lightning.load(done.outcome.chosen.folder).state_dict()
    assert all(torch.equal(values, stored[name]) for name, values in done.network.state_dict().items())
    flagged = (torch.from_numpy(images[bad[:10]]).unsqueeze(1) / 255 - 0.5) / 0.5
    with torch.no_grad():
        fit = (done.network(flagged).argmax(1) == 0).double().mean()
    assert fit == done.report.loc[done.report["chosen"], "fit_identified"].item()
    # The same call runs nothing again; only the results of the chosen run are written, because its weights are kept.
    others = [each.folder for each in done.outcome.candidates if each is not done.outcome.chosen]
    written = {folder: (folder / "metrics.json").stat().st_mtime_ns for folder in others}
    again = cmu_lightning.repair(network, images, labels, **arguments)
    assert again.reason == done.reason
    assert {folder: (folder / "metrics.json").stat().st_mtime_ns for folder in others} == written


def test_what_cannot_be_repaired(trained, tmp_path):
    network, images, labels, _ = trained
    with pytest.raises(UserError, match=r"the original cannot be measured: .*line 2 has index 600, but the training"):
        cmu_lightning.repair(network, images, labels, flagged=[600], folder=tmp_path)
    with pytest.raises(UserError, match="there are 600 images and 3 labels"):
        cmu_lightning.repair(network, images, labels[:3], flagged=[0], folder=tmp_path)
    with pytest.raises(UserError, match=r"ResNet9 does not take images of shape \(3, 16, 16\) .*: give arrays \(n, H"):
        cmu_lightning.repair(network, np.stack([images] * 3, -1), labels, flagged=[0], folder=tmp_path)
    pair = nn.Sequential(nn.Flatten(), nn.LSTM(256, 10))
    with pytest.raises(UserError, match=r"Sequential gives a tuple: it has to give logits, \(n, num_classes\)"):
        cmu_lightning.repair(pair, images, labels, flagged=[0], folder=tmp_path)


def test_a_candidate_that_fails_is_in_the_report(trained, tmp_path, monkeypatch):
    network, images, labels, bad = trained
    monkeypatch.setattr(PURE, "start", lambda *_: (_ for _ in ()).throw(RuntimeError("too odd")))
    torch.manual_seed(1234)
    done = cmu_lightning.repair(network, images, labels, flagged=bad[:10], steps=4, only="pure", folder=tmp_path)
    assert done.reason == "The original is kept: no candidate has finished."
    assert done.report.set_index("name")["note"]["pure"].startswith("failed: ")
    assert torch.initial_seed() == 1234, "the caller's"


@pytest.mark.parametrize("code", [130, 143])
def test_an_interrupt_ends_all_and_what_it_leaves_is_written_again(trained, tmp_path, monkeypatch, code):
    """Lightning makes an exit of Ctrl-C; images that were half written by an earlier version are no obstacle."""
    network, images, labels, bad = trained
    (tmp_path / "images.npz").write_bytes(b"PK\x03\x04 half")
    monkeypatch.setattr("cmu_lightning.deploy.notebook.fit", lambda arguments: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(KeyboardInterrupt):
        cmu_lightning.repair(network, images, labels, flagged=bad[:10], steps=4, only="cf", folder=tmp_path)
    with np.load(tmp_path / "images.npz") as stored:
        assert np.array_equal(stored["train_images"], images)


def test_images_of_every_kind():
    pixels = np.random.RandomState(0).randint(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    labels = [0, 1, 2, 1, 0]
    pairs = [(image / 255, label) for image, label in zip(tensor, labels, strict=True)]
    for images, given in ((pixels, labels), (tensor, torch.tensor(labels)), (tensor / 255, labels), (pairs, None)):
        found, numbers = _arrays(images, given)
        assert np.array_equal(found, pixels)
        assert (numbers.tolist(), numbers.dtype) == (labels, np.int64)
    assert _arrays(pixels[..., 0], labels)[0].shape == (5, 6, 7)
    with pytest.raises(UserError, match=r"images are float64 from -1.0 to .*: give uint8, or floating point from 0"):
        _arrays(np.full((5, 2, 2), -1.0), labels)


def test_flagged_samples_as_indices_or_a_mask(tmp_path):
    path, mask = tmp_path / "list.csv", torch.tensor([False, True, True])
    for flagged in ([1, 2], mask, np.array([1, 2]), {2, 1}):
        _write_list(path, flagged, None, 3)
        assert path.read_text() == "index\n1\n2\n"
    _write_list(path, mask, [7, -1], 3)
    assert path.read_text() == "index,corrected_label\n1,7\n2,\n"
    with pytest.raises(UserError, match="flagged holds float64: give indices of images, or a mask"):
        _write_list(path, [0.5], None, 3)
    with pytest.raises(UserError, match="2 flagged samples and 1 corrected labels"):
        _write_list(path, mask, [7], 3)
    with pytest.raises(UserError, match=r"a mask of shape \(3,\), and there are 4 images"):
        _write_list(path, mask, None, 4)


def test_a_network_of_another_process():
    with pytest.raises(
        UserError, match=r"the network Net-0 was in the memory of another process: load the run.s weights"
    ):
        kept_network("Net-0")
