"""Reading checkpoints, with one sentence for what is wrong with them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmu_lightning.errors import UserError

PREFIX = "network."


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content; code in it is never run.

    Raises:
        UserError: It is missing, damaged, or holds more than tensors and plain data.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}: give the last.ckpt of a run") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is refused, for it is no checkpoint of plain weights, or a damaged one") from error
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise UserError(f"{path} cannot be read as a checkpoint (is it whole?): give the last.ckpt of a run") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} holds no state_dict: give the last.ckpt of a run")
    return checkpoint


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain data to a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    torch.save(content, part)
    part.replace(path)


def load_network(network: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> nn.Module:
    """Put a checkpoint's weights into a network.

    Raises:
        UserError: They are another architecture's.
    """
    weights = {key.removeprefix(PREFIX): value for key, value in checkpoint["state_dict"].items()}
    own = network.state_dict()
    for key in [*own, *weights]:
        here, there = (tuple(state[key].shape) if key in state else "absent" for state in (own, weights))
        if here != there:
            raise UserError(
                f"{path} is of another architecture: {key} is {there} there and {here} in {type(network).__name__}"
            )
    network.load_state_dict(weights)
    return network
