"""Read and write checkpoints safely and atomically, and describe any damage in one sentence.

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

from cmu_lightning.console import say_once
from cmu_lightning.errors import UserError
from cmu_lightning.files import write_atomically

WRAPPERS = ("network.", "module.", "model.", "_orig_mod.")
"""Prefixes of every key that stages, DataParallel, other LightningModules and torch.compile add."""

STATES = ("state_dict", "model_state_dict", "model")
"""Keys under which Lightning and common training loops keep a network's weights, possibly next to other keys."""

GIVE_KEY = "say where its weights are by --model.original_key"
GIVE_PREFIX = "say what their keys begin with by --model.original_prefix"


class DamagedFile(UserError):
    """A file of tensors whose bytes differ from those that were written."""


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
    """Return the tensors and plain data of a file, on the CPU, if its content is intact.

    Args:
        path: Path of a file of `torch.save`.

    Raises:
        DamagedFile: A checksum does not match its record, or the file is cut off or no file of `torch.save`.
        UserError: It is missing, cannot be opened, or holds more than tensors and plain data.
    """
    path = Path(path)
    again = "; or delete it, and the same command makes it again or says how" if _is_of_run(path) else ""
    # A file in torch's old format, or one that is cut off, is no archive and has no checksums: only reading tests it.
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
        if error.errno == errno.EINVAL:  # a place outside of a file that was cut off
            raise DamagedFile(f"{path} is cut off or damaged: give another one{again}") from error
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
    """Return whether the records of an archive match its sizes and CRC-32 values."""
    try:
        with ZipFile(file) as archive:
            records = archive.infolist()
            # torch has an option to write no checksums; all are 0 then.
            if not any(record.CRC for record in records):
                return True
            # torch reads the one size of an uncompressed record, zipfile the other.
            sizes = all(record.compress_type or record.file_size == record.compress_size for record in records)
            return sizes and archive.testzip() is None
    except Exception as error:  # damaged headers make zipfile raise exceptions of many kinds
        # A damaged header can point outside the file; other system errors come from the disk or the network.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        return False


def _is_of_run(path: Path) -> bool:
    """Return whether a run of this project left the file, so that the run's command can make it again."""
    return path.name == "last.ckpt" and (path.parent / "config.yaml").exists()


def read_original(path: str | Path, key: str | None = None) -> dict[str, Any]:
    """Return the checkpoint that an unlearner starts from.

    Args:
        path: Path of a checkpoint, of a plain state dict, or of a `.safetensors` file.
        key: Key of the state dict in the checkpoint; `a.b` is b in a. Default: the usual key, or the only state dict.

    Returns:
        A checkpoint; of files that hold nothing but weights, one with only a `state_dict`.

    Raises:
        UserError: It is missing, damaged, or holds no weights, or those of several networks.
    """
    content = _safetensors(Path(path)) if str(path).endswith(".safetensors") else read_tensors(path)
    if _is_state_dict(content) and key is None:
        return {"state_dict": content}
    held = content if isinstance(content, dict) else {}
    found = {str(name): state for name, state in held.items() if _is_state_dict(state)}
    if key is not None:
        state = _at_key(held, key)
        if not _is_state_dict(state):
            there = f"they are at {', '.join(sorted(found))}" if found else "give that of a state_dict"
            raise UserError(f"{path} holds no weights at --model.original_key {key}: {there}")
        return held | {"state_dict": state}
    usual = [name for name in STATES if name in found] or list(found)
    if not usual:
        raise UserError(f"{path} holds no state_dict: save the network's state_dict() with torch.save, or {GIVE_KEY}")
    if len(usual) > 1 and usual[0] not in STATES:
        raise UserError(f"{path} holds several networks, {', '.join(sorted(usual))}: {GIVE_KEY}")
    return held | {"state_dict": found[usual[0]]}


def _at_key(held: Any, key: str) -> Any:
    """Return a checkpoint's value at a key, whose parts may be separated by dots; None if there is none."""
    if not isinstance(held, dict) or key in held:
        return held.get(key) if isinstance(held, dict) else None
    first, _, rest = key.partition(".")
    return _at_key(held.get(first), rest) if rest else None


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
    # Through memory: torch's own writer reports a full disk as a RuntimeError, and names records after the file.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getbuffer())


class _AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints like all other files, on rank 0; it keeps an error, so that all processes can raise it.

    Lightning also writes to a temporary file, but copies it if that is on another disk, and a copy can be cut off.
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
        OSError: There is no space; an older checkpoint stays unchanged.
    """
    strategy, writer = trainer.strategy, _AtomicCheckpoints()
    before, strategy.checkpoint_io = strategy.checkpoint_io, writer
    try:
        trainer.save_checkpoint(path, weights_only=weights_only)
    finally:
        strategy.checkpoint_io = before
    # Only rank 0 writes; if it fails, the others must not continue training and wait for it.
    if error := strategy.broadcast(writer.error):
        raise error


def load_network(
    network: nn.Module, checkpoint: dict[str, Any], path: str | Path, prefix: str | None = None
) -> nn.Module:
    """Load a checkpoint's weights into a network and return it.

    Args:
        network: Network that gets the weights.
        checkpoint: Checkpoint with a `state_dict`.
        path: Path of the checkpoint, for messages.
        prefix: Prefix of the keys of the network's weights; default: found automatically.

    Raises:
        UserError: The weights belong to another architecture, or the network's weights are ambiguous.
    """
    own = network.state_dict()
    weights = _unwrapped(checkpoint["state_dict"], own, path, prefix)
    # A file without any of the network's own keys may merely use other names.
    hint = "" if own.keys() & weights.keys() or prefix else f"; if it is the same, {GIVE_PREFIX}"
    for key in [*own, *weights]:
        here, there = (tuple(state[key].shape) if key in state else "absent" for state in (own, weights))
        if here != there:
            raise UserError(
                f"{path} belongs to another architecture: {key} is {there} there and {here} in "
                f"{type(network).__name__}{hint}"
            )
    network.load_state_dict(weights)
    return network


def _unwrapped(weights: dict[str, Any], own: dict[str, Any], path: str | Path, prefix: str | None) -> dict[str, Any]:
    """Return the network's weights among those of a file, without the prefixes that wrappers add to their keys.

    Args:
        weights: State dict of the file.
        own: State dict of the network.
        path: Path of the file, for messages.
        prefix: Prefix of the keys; None finds the only prefix whose keys are exactly the network's.

    Raises:
        UserError: No key begins with the prefix, or several prefixes are possible.
    """
    if prefix is not None:
        begin = prefix.removesuffix(".") + "."
        weights, whole = {key: value for key, value in weights.items() if key.startswith(begin)}, weights
        if not weights:
            first = ", ".join(sorted({f"{key.partition('.')[0]}." for key in whole}))
            raise UserError(f"no key of {path} begins with {begin} but with {first}: change --model.original_prefix")
        weights = {key.removeprefix(begin): value for key, value in weights.items()}
    if weights.keys() == own.keys():
        return weights
    found = _prefixes(weights, own)
    if "network." in found:  # a stage of this project may keep other networks and buffers in addition to its own
        found = ["network."]
    if len(found) > 1:
        raise UserError(f"{path} holds several such networks, {', '.join(found)}: {GIVE_PREFIX}")
    if found:
        others = [key for key in weights if not key.startswith(found[0])]
        if others and found != ["network."]:
            shown = ", ".join(others[:3] + ["..."] * (len(others) > 3))
            ignored = "one other is" if len(others) == 1 else f"{len(others)} others are"
            say_once(f"the weights under {found[0]} of {path} are used, and {ignored} ignored ({shown})")
        return {key.removeprefix(found[0]): value for key, value in weights.items() if key.startswith(found[0])}
    # No prefix fits. Remove known ones nevertheless, so that the message names the first difference in architecture.
    while weights:
        known = next((each for each in WRAPPERS if all(key.startswith(each) for key in weights)), None)
        if known is None:
            break
        weights = {key.removeprefix(known): value for key, value in weights.items()}
    return weights


def _prefixes(weights: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Return the prefixes, such as `model.`, under which there are exactly the network's own keys."""
    first = next(iter(own), "")
    ends = [key.removesuffix(first) for key in weights if first and key.endswith(f".{first}")]
    return [each for each in ends if {key for key in weights if key.startswith(each)} == {each + key for key in own}]
