"""Checkpoints, read and written, with one sentence for what is wrong with them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch import nn

from cmu_lightning.errors import UserError
from cmu_lightning.files import part_of

WRAPPERS = ("network.", "module.", "model.", "_orig_mod.")
"""What stages, DataParallel, other people's LightningModules and torch.compile put in front of every key."""

STATES = ("state_dict", "model_state_dict", "model")
"""Where Lightning and other people's loops put a network's weights in a checkpoint."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content; code in it is never run.

    Raises:
        UserError: It is missing, damaged, or holds more than tensors and plain data.
    """
    checkpoint = _load(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} holds no state_dict: give the last.ckpt of a run")
    return checkpoint


def _load(path: str | Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}: give the last.ckpt of a run, or a file of weights") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused, for it is no checkpoint of plain weights, or a damaged one: save the network's "
            "state_dict() with torch.save"
        ) from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, no checkpoint: give the file in it") from error
    except Exception as error:  # torch raises whatever the bytes lead it to
        again = "; or delete it, and the same command makes it again or says how" if _is_of_run(Path(path)) else ""
        raise UserError(f"{path} cannot be read as a checkpoint (is it whole?): give another one{again}") from error


def _is_of_run(path: Path) -> bool:
    """Whether it is what this project left in a run's folder, and can make again."""
    return path.name == "last.ckpt" and (path.parent / "config.yaml").exists()


def read_original(path: str | Path) -> dict[str, Any]:
    """What an unlearner starts from: a checkpoint, a plain state dict, or a `.safetensors` file.

    Returns:
        A checkpoint, which may hold a `state_dict` alone.

    Raises:
        UserError: It is missing, damaged, or holds no weights.
    """
    if str(path).endswith(".safetensors"):
        return {"state_dict": _safetensors(Path(path))}
    content = _load(path)
    if _is_state_dict(content):
        return {"state_dict": content}
    held = content if isinstance(content, dict) else {}
    for name in STATES:
        if _is_state_dict(held.get(name)):
            return held | {"state_dict": held[name]}
    raise UserError(f"{path} holds no state_dict: save the network's state_dict() with torch.save")


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and bool(content) and all(map(torch.is_tensor, content.values()))


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights: dict[str, torch.Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}: give the original's weights") from error
    except Exception as error:  # of its Rust core
        raise UserError(f"{path} cannot be read as safetensors ({error}): give a whole file") from error
    return weights


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain data to a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    torch.save(content, part)
    part.replace(path)


def save_whole(trainer: Trainer, path: Path, weights_only: bool) -> None:
    """Have a trainer write a checkpoint that is either whole or not there; Lightning copies, if /tmp is another disk.

    Raises:
        OSError: There is no room; an older checkpoint stays as it was.
    """
    part = part_of(path)
    try:
        trainer.save_checkpoint(part, weights_only=weights_only)
        if trainer.is_global_zero:
            part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    trainer.strategy.barrier()


def load_network(network: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> nn.Module:
    """Put a checkpoint's weights into a network.

    Raises:
        UserError: They are another architecture's.
    """
    own = network.state_dict()
    weights = _unwrapped(checkpoint["state_dict"], own)
    for key in [*own, *weights]:
        here, there = (tuple(state[key].shape) if key in state else "absent" for state in (own, weights))
        if here != there:
            raise UserError(
                f"{path} is of another architecture: {key} is {there} there and {here} in {type(network).__name__}"
            )
    network.load_state_dict(weights)
    return network


def _unwrapped(weights: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Without what wrappers put in front of every key, as long as the keys are not the network's own.

    What a stage keeps beside its network is left out.
    """
    if weights.keys() > {f"network.{key}" for key in own}:
        weights = {key: value for key, value in weights.items() if key.startswith("network.")}
    while weights and weights.keys() != own.keys():
        prefix = next((each for each in WRAPPERS if all(key.startswith(each) for key in weights)), None)
        if prefix is None:
            break
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights
