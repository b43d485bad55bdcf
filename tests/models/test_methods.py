"""Every method takes its steps on every network, with the settings of its overlay."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from cmu_lightning import unlearning
from cmu_lightning.data import DigitsDataModule, Poison
from cmu_lightning.errors import UserError
from cmu_lightning.models import ResNet18, ViT
from cmu_lightning.unlearning import Original, Procedure
from tests.helpers.short_stages import trainer

NETWORKS = {
    "ResNet18": partial(ResNet18, num_classes=10, in_channels=1, width=1),
    "ViT": partial(ViT, num_classes=10, in_channels=1, image_size=12, patch=4, width=8, depth=3, heads=2, hidden=16),
}
ELSEWHERE = {"etd", "relabel"}
"""An original, and a method whose labels come with a list: other tests run them."""
OVERLAYS = [
    path
    for path in sorted((Path(__file__).parents[2] / "configs" / "unlearn").glob("*.yaml"))
    if path.stem not in ELSEWHERE
]
OF_OURS = {"Potion": {"rho": 1.0}}
"""Where so few steps leave nothing to forget, the search ends at its first try."""
FEW = Procedure(steps=2, unlearn_steps=2, batch_size=32, lr=0.02)


class FewDigits(DigitsDataModule):
    """The first digits only."""

    def load(self):
        train, validation, test = super().load()
        return train.take(torch.arange(120)), validation, test.take(torch.arange(40))


def data():
    return FewDigits(Poison(size=12), identified=0.5, val_size=20)


@pytest.fixture(scope="module", params=NETWORKS)
def original(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    run = trainer(folder)
    run.fit(Original(NETWORKS[request.param], FEW), datamodule=data())
    run.save_checkpoint(folder / "last.ckpt", weights_only=True)
    return NETWORKS[request.param], str(folder / "last.ckpt")


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_every_method_runs_on_it(overlay, original, tmp_path):
    network, path = original
    model = yaml.safe_load(overlay.read_text())["model"]
    method = getattr(unlearning, model["class_path"].rpartition(".")[2])
    stage = method(network, FEW, path, **(model.get("init_args", {}) | OF_OURS.get(method.__name__, {})))
    run = trainer(tmp_path)
    if method is unlearning.REM and network is NETWORKS["ViT"]:
        with pytest.raises(UserError, match="ViT has only one, which cuts the image into patches"):
            run.fit(stage, datamodule=data())
        return
    run.fit(stage, datamodule=data())
    assert all(bool(values.isfinite().all()) for values in stage.network.state_dict().values())
    run.test(stage, datamodule=data(), verbose=False)
    assert 0 <= stage.results["acc_corr"] <= 1


def test_the_exact_diagonal_of_a_transformer(original, tmp_path):
    """Attention and class token have no formula of their own, and are differentiated sample by sample."""
    network, path = original
    stage = unlearning.SSD(network, FEW, path, selection=1.0, fisher="sample")
    trainer(tmp_path).fit(stage, datamodule=data())
    assert all(bool(values.isfinite().all()) for values in stage.network.state_dict().values())
