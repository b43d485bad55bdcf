"""Networks back from run folders."""

from collections.abc import Callable
from pathlib import Path

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

import cmu_lightning.models  # noqa: F401  (makes short class names known)
from cmu_lightning.errors import UserError
from cmu_lightning.tracking.checkpoint import load_network, read_checkpoint


def restore_network(folder: Path) -> nn.Module:
    """The network of a run, in evaluation mode.

    Raises:
        UserError: The folder is not a run's.
    """
    config = folder / "config.yaml"
    if not config.exists():
        raise UserError(f"{folder} is not a run: it has no config.yaml")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Callable[[], nn.Module])
    try:
        parsed = parser.parse_object({"network": yaml.safe_load(config.read_text())["network"]})
    except (ArgumentError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{config} is not a run's, or damaged: it does not say how to make the network") from error
    network: nn.Module = parser.instantiate_classes(parsed).network()
    return load_network(network, read_checkpoint(folder / "last.ckpt"), folder / "last.ckpt").eval()
