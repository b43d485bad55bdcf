"""Networks and data back from run folders."""

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.errors import UserError
from cmu_lightning.models.factory import NetworkFromFunction
from cmu_lightning.unlearning.checkpoint import load_network, read_checkpoint, read_original


def restore_network(folder: Path, checkpoint: Path | None = None) -> nn.Module:
    """The network of a run, in evaluation mode.

    Args:
        folder: Folder of the run.
        checkpoint: Whose weights it gets, such as the original's; default the run's own.

    Raises:
        UserError: The folder is not a run's.
    """
    network: nn.Module = _maker(folder, "network", Callable[[], nn.Module])()()
    path = checkpoint or folder / "last.ckpt"
    return load_network(network, read_original(path), path).eval()


def restore_data(folder: Path) -> CorruptedDataModule:
    """The data of a run, ready for use.

    Raises:
        UserError: The folder is not a run's, or its data are not those that it was run on.
    """
    make = _maker(folder, "data", CorruptedDataModule)
    where = f"where they are, {folder}/config.yaml says under data: write it there if they have moved"
    try:
        data: CorruptedDataModule = make()
        data.prepare_data()
        data.setup()
    except UserError as error:
        raise UserError(f"the data of {folder} cannot be read ({error}); {where}") from error
    state = read_checkpoint(folder / "last.ckpt").get(type(data).__qualname__)
    if state is None:
        raise UserError(f"{folder}/last.ckpt is of no {type(data).__name__}: give a run whose files belong together")
    difference = data.difference(state)
    if difference:
        raise UserError(f"{folder} was run on {difference}; {where}, or let CMU_DATA_DIR name their folder")
    data.load_state_dict(state)
    return data


def read_config(folder: Path) -> dict[str, Any]:
    """A run's `config.yaml`.

    Raises:
        UserError: The folder is not a run's.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        if not path.exists():
            raise UserError(f"{folder} is not a run: it has no config.yaml") from error
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a run's, or damaged: give the folder of a run")
    return config


def _maker(folder: Path, key: str, kind: Any) -> Callable[[], Any]:
    """Makes what the config says under a key."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{key}", type=kind)
    config = read_config(folder)
    _refuse_lost(config.get(key), folder)
    try:
        parsed = parser.parse_object({key: config[key]})
    except (ArgumentError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}/config.yaml is not a run's, or damaged: it does not say how to make the {key}"
        ) from error
    return lambda: parser.instantiate_classes(parsed)[key]


def _refuse_lost(spec: Any, folder: Path) -> None:
    """Name a class or function that was there when the run was made and is not there now."""
    path = spec.get("class_path") if isinstance(spec, dict) else None
    function = (
        (spec.get("init_args") or {}).get("function")
        if path == f"{NetworkFromFunction.__module__}.{NetworkFromFunction.__name__}"
        else None
    )
    named = function or path
    if not isinstance(named, str) or "." not in named:
        return
    try:
        resolve_name(named)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{folder} needs {named}, which is not found ({error}): be in the folder of its module, or install it"
        ) from error
