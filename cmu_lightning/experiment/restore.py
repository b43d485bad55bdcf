"""Networks and data restored from run folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from cmu_lightning.data import CorruptedDataModule, Flagged
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import read_metrics
from cmu_lightning.models.admitted import check_names, protect_parser
from cmu_lightning.unlearning.checkpoint import load_network, read_checkpoint, read_original
from cmu_lightning.unlearning.stage import RECORD
from cmu_lightning.yaml_files import parse_yaml


def restore_network(
    folder: Path, checkpoint: Path | None = None, key: str | None = None, prefix: str | None = None
) -> nn.Module:
    """Return the network of a run, in evaluation mode.

    Args:
        folder: Folder of the run.
        checkpoint: Weights to load, such as the original's; default the run's own.
        key: Key of the weights in the checkpoint, if they are not found automatically.
        prefix: Prefix of the weights' keys, likewise.

    Raises:
        UserError: The folder is not a run's, or the weights are not this network's.
    """
    network: nn.Module = _find_maker(folder, "network", Callable[[], nn.Module])()()
    path = checkpoint or folder / "last.ckpt"
    held = read_original(path, key)
    if checkpoint is None:
        _check_run(folder, held.get(RECORD, {}))
    return load_network(network, held, path, prefix).eval()


def _check_run(folder: Path, record: dict[str, Any]) -> None:
    """Refuse a checkpoint that does not belong to the same run as the results next to it."""
    stored = read_metrics(folder)
    if stored is not None and record.get("hash", stored["hash"]) != stored["hash"]:
        raise UserError(
            f"{folder}/last.ckpt belongs to another run ({record.get('method')} {record['hash']}) than metrics.json "
            f"({stored.get('method')} {stored['hash']}): give a run whose files belong together"
        )


def restore_data(folder: Path) -> CorruptedDataModule:
    """Return the data of a run, set up.

    Args:
        folder: Folder of the run.

    Raises:
        UserError: The folder is not a run's, or the data are not those that the run was made with.
    """
    make = _find_maker(folder, "data", CorruptedDataModule)
    hint = f"{folder}/config.yaml holds their location under data: change it there if they have moved"
    try:
        data: CorruptedDataModule = make()
        data.prepare_data()
        data.setup()
    except UserError as error:
        raise UserError(f"the data of {folder} cannot be read ({error}); {hint}") from error
    state = read_checkpoint(folder / "last.ckpt").get(type(data).__qualname__)
    if state is None:
        raise UserError(
            f"{folder}/last.ckpt belongs to no {type(data).__name__}: give a run whose files belong together"
        )
    difference = data.difference(state)
    if difference:
        raise UserError(f"{folder} was run on {difference}; {hint}, or let CMU_DATA_DIR name their folder")
    try:
        data.load_state_dict(state)
    except UserError as error:
        if not isinstance(data.discovery, Flagged):
            raise
        changed = f"its list {data.discovery.path} has changed since"
        raise UserError(
            f"{folder} was run on another deletion set (S_f), because {changed}: put the old one back, or run fit with "
            "the new one"
        ) from error
    return data


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a run's `config.yaml`.

    Args:
        folder: Folder of the run.

    Raises:
        UserError: The folder is not a run's.
    """
    path = folder / "config.yaml"
    try:
        config = parse_yaml(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        if not path.exists():
            raise UserError(f"{folder} is not a run: it has no config.yaml") from error
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a run's, or damaged: give the folder of a run")
    return config


def _find_maker(folder: Path, key: str, kind: Any) -> Callable[[], Any]:
    """Return a function that makes the object that a run's config describes under a key.

    Args:
        folder: Folder of the run.
        key: `network` or `data`.
        kind: Type of the key's value, by which the parser reads it.

    Raises:
        UserError: The config is damaged, or names a class that is not found or that no config may name.
    """
    config = read_config(folder)
    damaged = f"{folder}/config.yaml is not a run's, or damaged: it does not say how to make the {key}"
    # The file may come from a stranger: no other part of it is read, and only makers of parts of a run are called.
    check_names(config.get(key), f"{folder}/config.yaml:{key}")
    protect_parser()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{key}", type=kind)
    try:
        parsed = parser.parse_object({key: config[key]})
    except (ArgumentError, KeyError, TypeError) as error:
        raise UserError(damaged) from error
    if parsed[key] is None:
        raise UserError(damaged)
    return lambda: parser.instantiate_classes(parsed)[key]
