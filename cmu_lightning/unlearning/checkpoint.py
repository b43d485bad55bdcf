"""Reading and writing checkpoints: safe, atomic, and with one sentence for whatever is wrong with a file.

`torch.save` writes a ZIP archive that holds a CRC-32 of every record, of tensors and of plain data, but `torch.load`
does not compare them: a flipped bit gives other weights and no error. Every reader here compares them first. The
checksums are in the file itself, so they survive a copy, and files of earlier versions and of others have them too.
"""

import errno
import io
import pickle
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile, is_zipfile

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import load_file
from torch import nn

from cmu_lightning.errors import UserError
from cmu_lightning.files import write_atomically

WRAPPERS = ("network.", "module.", "model.", "_orig_mod.")
"""Prefixes of every key that stages, DataParallel, other LightningModules and torch.compile add."""

STATES = ("state_dict", "model_state_dict", "model")
"""Keys under which Lightning and common training loops keep a network's weights in a checkpoint."""


class DamagedFile(UserError):
    """A file of tensors whose bytes are not those that were written."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's content; code in it is never run.

    Args:
        path: Path of a Lightning checkpoint.

    Raises:
        UserError: It is missing, damaged, or holds more than tensors and plain data.
    """
    checkpoint = read_tensors(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} holds no state_dict: give the last.ckpt of a run")
    return checkpoint


def read_tensors(path: str | Path) -> Any:
    """Return the tensors and plain data of a file, on the CPU, if its content is what was written.

    Args:
        path: Path of a file of `torch.save`.

    Raises:
        DamagedFile: A checksum is not that of its record, or the file is cut off or no file of `torch.save`.
        UserError: It is missing, cannot be opened, or holds more than tensors and plain data.
    """
    path = Path(path)
    again = "; or delete it, and the same command makes it again or says how" if _is_of_run(path) else ""
    # What is no archive, in torch's old format or cut off, has no checksums: only reading it shows whether it is whole.
    has_sums = False
    try:
        with path.open("rb") as file:
            has_sums = is_zipfile(file)
            if has_sums and not _sums_agree(file):
                raise DamagedFile(f"{path} is damaged, its checksums do not agree: give another one{again}")
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}: give the last.ckpt of a run, or a file of weights") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, no checkpoint: give the file in it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another one, or make it readable") from error
    except pickle.UnpicklingError as error:
        raise (UserError if has_sums else DamagedFile)(
            f"{path} is refused, because it is damaged or holds more than plain weights: save the network's "
            "state_dict() with torch.save"
        ) from error
    except Exception as error:  # damaged bytes make torch raise exceptions of many kinds
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise
        raise DamagedFile(f"{path} cannot be read as a checkpoint (is it whole?): give another one{again}") from error


def is_damaged(path: Path) -> bool:
    """Return whether a file that `save_tensors` or `save_whole` wrote does not hold what they wrote.

    Args:
        path: Path of a file that exists.

    Raises:
        UserError: The file cannot be opened, or holds what they never write.
    """
    try:
        read_tensors(path)
    except DamagedFile:
        return True
    return False


def _sums_agree(file: BinaryIO) -> bool:
    """Return whether the records of an archive have the sizes and the CRC-32 that it holds."""
    try:
        with ZipFile(file) as archive:
            records = archive.infolist()
            # torch can be told to write no checksums; all are 0 then.
            if not any(record.CRC for record in records):
                return True
            # torch reads the one size of an uncompressed record, zipfile the other.
            sizes = all(record.compress_type or record.file_size == record.compress_size for record in records)
            return sizes and archive.testzip() is None
    except Exception as error:  # damaged headers make zipfile raise exceptions of many kinds
        # A damaged header can lead outside the file; other errors of the system are of the disk or the network.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        return False


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
    content = read_tensors(path)
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
    # By way of memory: torch's own writer gives a full disk as a RuntimeError, and names records after the file.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getbuffer())


class _AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints as all other files, on rank 0; an error is kept, so that all processes can raise it.

    Lightning writes to a temporary file, too, but copies it where that is on another disk, and a copy can be cut off.
    """

    error: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Its content.
            path: Path of the file.
            storage_options: Not used.
        """
        try:
            save_tensors(Path(path), checkpoint)
        except OSError as error:
            self.error = error


def save_whole(trainer: Trainer, path: Path, weights_only: bool) -> None:
    """Write a trainer's checkpoint atomically.

    Args:
        trainer: Trainer with a stage; all its processes call this.
        path: Path of the checkpoint.
        weights_only: Whether to leave out the states of optimizers and loops.

    Raises:
        OSError: There is no room; an older checkpoint stays as it was.
    """
    strategy, writer = trainer.strategy, _AtomicCheckpoints()
    before, strategy.checkpoint_io = strategy.checkpoint_io, writer
    try:
        trainer.save_checkpoint(path, weights_only=weights_only)
    finally:
        strategy.checkpoint_io = before
    # Only rank 0 writes; where it fails, the others must not train on and wait for it.
    if error := strategy.broadcast(writer.error):
        raise error


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
