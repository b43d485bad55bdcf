"""The curves of a method of one's own, as docs/extending.md shows them."""

import re
from math import log
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.callbacks import LastCheckpoint
from cmu_lightning.unlearning import Original
from tests.helpers.short_stages import LINEAR, SHORT, digits, trainer

DOCUMENT = Path(__file__).parents[2] / "docs/extending.md"


class StepLosses(Callback):
    """Records the loss of each sample in every step."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []

    def on_train_start(self, trainer, pl_module) -> None:
        loss = pl_module.loss

        def recorded(batch):
            losses = loss(batch)
            self.losses.append(losses.detach())
            return losses

        pl_module.loss = recorded


def test_a_curve_of_ones_own_is_logged_as_a_mean_over_the_last_steps(tmp_path, original):
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL) if "WatchedCF" in block
    )
    exec(compile(code, "mine.py", "exec"), scope := {"__name__": "mine"})
    recorded, logger = StepLosses(), CSVLogger(tmp_path / "logs", name="", version="")
    run = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[recorded],
        logger=logger,
        log_every_n_steps=5,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    run.fit(scope["WatchedCF"](LINEAR, SHORT, original), datamodule=digits(0.5))
    logger.save()
    lines = [line.split(",") for line in (tmp_path / "logs/metrics.csv").read_text().splitlines()]
    column = lines[0].index("unsure")
    logged = [float(line[column]) for line in lines[1:] if line[column]]
    halves = recorded.losses[:5], recorded.losses[5:]
    expected = [(torch.cat(half) > log(2)).double().mean().item() for half in halves]
    assert logged == pytest.approx(expected, abs=1e-6)
    assert 0 < expected[1] < 1


class DivergingOriginal(Original):
    """An original whose loss is not finite after some of its 24 steps."""

    good, then = 24, 1.0

    def loss(self, batch):
        return super().loss(batch) * (1.0 if self.global_step < self.good else self.then)


@pytest.mark.parametrize(("good", "then"), [(12, float("nan")), (14, float("inf"))])
def test_a_loss_that_is_not_finite_ends_training_and_the_last_good_checkpoint_stays(tmp_path, monkeypatch, good, then):
    """A resume from it ends with the same sentence."""
    monkeypatch.setattr(DivergingOriginal, "good", good)
    monkeypatch.setattr(DivergingOriginal, "then", then)
    path = tmp_path / "last.ckpt"
    said = []
    for resume in (None, path):
        every = LastCheckpoint(path, seconds=-1, rest=-1)
        every.look = 1
        run = trainer(tmp_path, every, log_every_n_steps=5)
        with pytest.raises(UserError) as raised:
            run.fit(DivergingOriginal(LINEAR, SHORT), datamodule=digits(), ckpt_path=resume, weights_only=True)
        said.append(str(raised.value))
        assert run.global_step == 14, "the optimiser does not take the 15th step"
        kept = torch.load(path, weights_only=True)
        assert kept["global_step"] == good
        assert all(each.isfinite().all() for each in kept["state_dict"].values())
    assert said[0] == said[1]
    assert f"train_loss became {then} in steps 11 to 15 of 24" in said[0]
    assert "lower procedure.lr=0.05" in said[0]
