"""Fine-tuning with corrected labels against a few lines of torch."""

from pathlib import Path

import pytest
import torch

from cmu_lightning.data import DigitsDataModule, Flagged, Unknown
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning import CF, Original, Relabel
from tests.helpers.short_stages import LINEAR, SHORT, equal_tensors, trainer, weights


def made(text: str, val_size: int = 100) -> DigitsDataModule:
    Path("list.csv").write_text(text)
    return DigitsDataModule(Unknown(), discovery=Flagged("list.csv"), val_size=val_size)


def fitted(kind: type, text: str) -> tuple[object, DigitsDataModule]:
    data = made(text)
    if not Path("original.ckpt").exists():
        own = trainer(Path())
        own.fit(Original(LINEAR, SHORT), datamodule=made(text))
        own.save_checkpoint("original.ckpt", weights_only=True)
    stage = kind(LINEAR, SHORT, "original.ckpt")
    trainer(Path()).fit(stage, datamodule=data)
    return stage, data


def test_what_it_is_trained_on():
    """Of four flagged samples two are corrected; the loss is of corrected labels, and nothing else is changed."""
    stage, data = fitted(Relabel, "index,corrected_label\n3,7\n40,\n500,2\n41,\n")
    stored = torch.nonzero(~data.held).flatten()
    place = {int(row): at for at, row in enumerate(stored)}
    left_out = {place[40], place[41]}
    assert set(torch.nonzero(~stage.trained).flatten().tolist()) == left_out
    given = data.samples.given_labels.clone()
    assert (int(stage.labels[place[3]]), int(stage.labels[place[500]])) == (7, 2)
    different = torch.nonzero(stage.labels != given).flatten().tolist()
    assert set(different) <= {place[3], place[500]}
    batch = data.training_batches(
        [data.training_source(stage.trained, 300, 0, augment=False)], [0], done=lambda: 0
    ).batch(0)
    logits = stage.network(batch.image)
    expected = torch.nn.functional.cross_entropy(logits, stage.labels[batch.train_index], reduction="none")
    torch.testing.assert_close(stage.loss(batch), expected)
    assert not {40, 41} & {int(stored[row]) for row in batch.train_index}


def test_with_no_correction_among_the_flagged_it_is_cf():
    """The list corrects a sample that it does not flag, which keeps its label."""
    text = "index,is_label_issue,corrected_label\n3,true,\n40,true,\n41,false,5\n"
    assert equal_tensors(
        dict(fitted(Relabel, text)[0].network.state_dict()), dict(fitted(CF, text)[0].network.state_dict())
    )
    assert not equal_tensors(dict(fitted(CF, text)[0].network.state_dict()), weights("original.ckpt"))


def test_a_list_without_corrections_is_refused():
    with pytest.raises(UserError, match="trains on corrected labels, and S_f has none: give the list of"):
        fitted(Relabel, "index\n3\n40\n")
