"""Reading and writing checkpoints: safe, atomic, and with one sentence for whatever is wrong with a file."""

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
"""Prefixes of every key that stages, DataParallel, other LightningModules and torch.compile add."""

STATES = ("state_dict", "model_state_dict", "model")
"""Keys under which Lightning and common training loops keep a network's weights in a checkpoint."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's content; code in it is never run.

    Args:
        path: Path of a Lightning checkpoint.

    Raises:
        UserError: It is missing, damaged, or holds more than tensors and plain data.
    """
    checkpoint = _load(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} holds no state_dict: give the last.ckpt of a run")
    return checkpoint


def _load(path: str | Path) -> Any:
    """Return a file's tensors and plain data, on the CPU."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}: give the last.ckpt of a run, or a file of weights") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused, because it is damaged or holds more than plain weights: save the network's "
            "state_dict() with torch.save"
        ) from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, no checkpoint: give the file in it") from error
    except Exception as error:  # damaged bytes make torch raise exceptions of many kinds
        again = "; or delete it, and the same command makes it again or says how" if _is_of_run(Path(path)) else ""
        raise UserError(f"{path} cannot be read as a checkpoint (is it whole?): give another one{again}") from error


def _is_of_run(path: Path) -> bool:
    """Return whether a run of this project left the file, so that the run's command can make it again."""
    return path.name == "last.ckpt" and (path.parent / "config.yaml").exists()


def read_original(path: str | Path) -> dict[str, Any]:
    """Return the checkpoint that an unlearner starts from.

    Args:
        path: Path of a checkpoint, of a plain state dict, or of a `.safetensors` file.

    Returns:
        A checkpoint; of files that hold nothing but weights, one with only a `state_dict`.

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
    except Exception as error:  # the Rust core of safetensors has its own exceptions
        raise UserError(f"{path} cannot be read as safetensors ({error}): give a whole file") from error
    return weights


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain data atomically, and create the folder where it is missing.

    Args:
        path: Path of the file.
        content: What `torch.save` writes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    torch.save(content, part)
    part.replace(path)


def save_whole(trainer: Trainer, path: Path, weights_only: bool) -> None:
    """Write a trainer's checkpoint atomically.

    Lightning writes to a temporary file, too, but copies it where that is on another disk, and a copy can be cut off.

    Args:
        trainer: Trainer with a stage; all its processes call this.
        path: Path of the checkpoint.
        weights_only: Whether to leave out the states of optimizers and loops.

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
    """Load a checkpoint's weights into a network and return it.

    Args:
        network: Network that gets the weights.
        checkpoint: Checkpoint with a `state_dict`.
        path: Path of the checkpoint, for messages.

    Raises:
        UserError: The weights are of another architecture.
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
    """Return weights without the prefixes that wrappers add to every key, until the keys are the network's own."""
    # A stage may keep buffers beside its network; they are no weights of it.
    if weights.keys() > {f"network.{key}" for key in own}:
        weights = {key: value for key, value in weights.items() if key.startswith("network.")}
    # Wrappers nest, so prefixes are removed one by one, and only those that all keys have.
    while weights and weights.keys() != own.keys():
        prefix = next((each for each in WRAPPERS if all(key.startswith(each) for key in weights)), None)
        if prefix is None:
            break
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights
