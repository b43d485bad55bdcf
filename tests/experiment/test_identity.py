"""The settings that make two runs the same, and those that do not."""

from collections.abc import Callable
from typing import Any

import pytest

from cmu_lightning.cli.fit import CLI, main
from cmu_lightning.experiment.identity import digest, identity

CONFIG = {
    "setting": "mine",
    "data": {"class_path": "cmu_lightning.data.DigitsDataModule", "init_args": {"root": "x"}},
    "network": {"class_path": "mine.one.Net"},
    "procedure": {"steps": 3, "unlearn_steps": 2},
    "model": {"class_path": "cmu_lightning.unlearning.CF"},
    "trainer": {},
}


def run_hash(**parts: Any) -> str:
    """Return the hash of `CONFIG` with some parts replaced."""
    return digest(identity(CONFIG | parts, "steps", frozenset(), "abc"))


def folder_data(**arguments: Any) -> dict[str, Any]:
    """Return the part of a config that names images in folders."""
    return {"data": {"class_path": "cmu_lightning.data.FolderDataModule", "init_args": arguments}}


def test_classes_of_the_same_name_in_several_modules_differ():
    assert (
        len({run_hash(), *(run_hash(network={"class_path": f"mine.{module}.Net"}) for module in ("two", "three"))}) == 3
    )
    inner = {"class_path": "cmu_lightning.unlearning.baselines.CF"}
    assert run_hash(model=inner) == run_hash()  # the same class, named by another module of the package


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
def test_several_spellings_of_one_training_have_one_hash(one, other):
    assert run_hash(trainer=one) == run_hash(trainer=other)


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
    assert len({run_hash(trainer=each) for each in several}) == len(several)


def test_arguments_that_the_first_configs_lack_do_not_change_their_hashes():
    assert run_hash(**folder_data(root="x")) == run_hash(
        **folder_data(root="x", resize=None, classes=None, discovery=None)
    )
    assert len({run_hash(**folder_data(**own)) for own in ({}, {"resize": 8}, {"classes": ["b", "a"]})}) == 3


def test_later_arguments_of_lists_and_unlearners_do_not_change_hashes():
    def flagged(**own: Any) -> dict[str, Any]:
        discovery = {"class_path": "cmu_lightning.data.Flagged", "init_args": {"path": "list.csv", **own}}
        return folder_data(root="x", discovery=discovery)

    def unlearner(**own: Any) -> dict[str, Any]:
        return {"model": {"class_path": "cmu_lightning.unlearning.CF", "init_args": {"seed": 0, **own}}}

    assert run_hash(**flagged()) == run_hash(**flagged(threshold=None)) != run_hash(**flagged(threshold=0.5))
    assert run_hash(**unlearner()) == run_hash(**unlearner(original_prefix=None, original_key=None))
    several = ({}, {"original_prefix": "net"}, {"original_key": "net"})
    assert len({run_hash(**unlearner(**own)) for own in several}) == 3


def test_sgd_has_the_hash_from_before_there_were_other_optimisers():
    def procedure(**own: Any) -> dict[str, Any]:
        return {"procedure": {"steps": 3, "unlearn_steps": 2, **own}}

    adam = {"class_path": "torch.optim.Adam", "init_args": {"eps": 1e-8}}
    other = {"class_path": "torch.optim.Adam", "init_args": {"eps": 1e-6}}
    assert run_hash() == run_hash(**procedure(optimizer=None))
    assert len({run_hash(), run_hash(**procedure(optimizer=adam)), run_hash(**procedure(optimizer=other))}) == 3


def test_batch_statistics_of_several_processes_on_cpus_make_another_run():
    def split_hash(**trainer: Any) -> str:
        named = identity(CONFIG | {"trainer": trainer}, "steps", frozenset(), "abc", splits_statistics=True)
        return digest(named)

    assert {split_hash(**each) for each in ({}, {"devices": 1}, {"devices": "auto", "num_nodes": 1})} == {run_hash()}
    two = {split_hash(**each) for each in ({"devices": 2}, {"devices": "2"}, {"devices": 1, "num_nodes": 2})}
    assert len(two) == 1
    assert len({run_hash(), *two, split_hash(devices=2, num_nodes=2)}) == 3


@pytest.fixture
def identify(small: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str | None]]:
    """Return a function that gives the hashes of a command's run and of its original, and trains nothing."""
    found: list[tuple[str, str | None]] = []

    def note(cli: CLI, *_: Any, **__: Any) -> None:
        found.append((cli.run.hash, cli.original.hash if cli.original else None))

    monkeypatch.setattr(CLI, "fit", note)

    def identified(*arguments: str) -> tuple[str, str | None]:
        assert main(["fit", "--config", "poison_digits.yaml", "--config", small, *arguments]) == 0
        return found[-1]

    return identified


@pytest.mark.slow
def test_only_training_with_batch_norm_depends_on_the_number_of_processes(identify, runs):
    two = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    norm = ("--network", "ResNet9", "--network.in_channels", "1", "--network.width", "4")
    cf, ssd = (("--config", f"unlearn/{name}.yaml", "--data.identified", "0.5") for name in ("cf", "ssd"))
    assert identify() == identify(*two)
    assert identify(*norm)[0] != identify(*norm, *two)[0]
    for method in (cf, ssd):
        one, several = identify(*norm, *method), identify(*norm, *method, *two)
        assert one[0] != several[0]
        assert several[1] == identify(*norm, *two)[0], "the original is trained on as many processes"
    # Dampening trains nothing, and a given original is what it is.
    (given,) = runs.glob("poison_digits/Original/*/last.ckpt")
    from_given = (*norm, "--model.original", str(given))
    assert identify(*ssd, *from_given) == identify(*ssd, *from_given, *two)
    assert identify(*cf, *from_given)[0] != identify(*cf, *from_given, *two)[0]
