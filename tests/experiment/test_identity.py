"""What makes a run the run it is."""

import pytest

from cmu_lightning.experiment.identity import digest, identity

CONFIG = {
    "setting": "mine",
    "data": {"class_path": "cmu_lightning.data.DigitsDataModule", "init_args": {"root": "x"}},
    "network": {"class_path": "mine.one.Net"},
    "procedure": {"steps": 3, "unlearn_steps": 2},
    "model": {"class_path": "cmu_lightning.unlearning.CF"},
    "trainer": {},
}


def named(**parts):
    return digest(identity(CONFIG | parts, "steps", frozenset(), "abc"))


def data(**arguments):
    return {"data": {"class_path": "cmu_lightning.data.FolderDataModule", "init_args": arguments}}


def test_classes_of_one_name_are_several():
    assert len({named(), *(named(network={"class_path": f"mine.{module}.Net"}) for module in ("two", "three"))}) == 3
    inner = {"class_path": "cmu_lightning.unlearning.baselines.CF"}
    assert named(model=inner) == named()  # the same class, as another of our modules names it


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"gradient_clip_val": 1}, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "norm"}),
        ({"gradient_clip_algorithm": "value"}, {}),
        ({"limit_val_batches": 1.0, "limit_test_batches": 1.0}, {}),
        ({"precision": "32-true"}, {"precision": None}),
        ({"precision": 32}, {"precision": "32"}),
        ({"precision": 32}, {"precision": None}),
        ({"precision": "bf16"}, {"precision": "bf16-mixed"}),
        ({"callbacks": None}, {"callbacks": []}),
        ({"devices": 2, "logger": True}, {"devices": 1}),
        ({"val_check_interval": 2}, {"val_check_interval": 9}),
    ],
)
def test_one_training_is_spelled_in_several_ways(one, other):
    assert named(trainer=one) == named(trainer=other)


def test_what_changes_the_training_makes_another_run():
    several = [
        {},
        {"gradient_clip_val": 1.0},
        {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
        {"limit_test_batches": 1},
        {"precision": "bf16-mixed"},
        {"callbacks": [{"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}]},
        {"callbacks": [{"class_path": "lightning.pytorch.callbacks.EarlyStopping"}], "val_check_interval": 2},
        {"callbacks": [{"class_path": "lightning.pytorch.callbacks.EarlyStopping"}], "val_check_interval": 9},
    ]
    assert len({named(trainer=each) for each in several}) == len(several)


def test_arguments_that_came_later_leave_older_runs_what_they_are():
    assert named(**data(root="x")) == named(**data(root="x", resize=None, classes=None, discovery=None))
    assert len({named(**data(**own)) for own in ({}, {"resize": 8}, {"classes": ["b", "a"]})}) == 3
