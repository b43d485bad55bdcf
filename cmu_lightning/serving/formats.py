"""A network as files that need none of this project's code."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.errors import UserError, first_line

OPSET = 18
"""Of ONNX; runtimes since 2023 know it."""
TOLERANCE = 1e-4
"""Of logits, relative to those that are larger than 1."""
COMPARED = 100
"""Images on which the ONNX file is tried."""


def sample_inputs(data: CorruptedDataModule) -> Tensor:
    """Real images as the network takes them, shape (n, C, H, W); triggers are among them.

    Args:
        data: Data of the run.
    """
    samples = data.samples
    rows = samples.manipulated.int().argsort(descending=True, stable=True)
    rows = rows[torch.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).long()]
    return data.pixels()(samples.images[rows], samples.manipulated[rows], samples.manipulation_index[rows]).contiguous()


def write_weights(network: nn.Module, path: Path) -> None:
    """All of a network's state, under the names that it has there."""
    from safetensors.torch import save

    state = {name: value.contiguous().clone() for name, value in network.state_dict().items()}  # shared ones repeat
    path.write_bytes(save(state, metadata={"format": "pt"}))


def write_onnx(network: nn.Module, images: Tensor, path: Path) -> None:
    """Input `images`, output `logits`, any number of images.

    Args:
        network: In evaluation mode.
        images: Some of its inputs.
        path: To write to.

    Raises:
        UserError: The exporter does not understand the network.
    """
    try:
        with _silence():
            torch.onnx.export(
                network,
                (images[:2],),
                path,
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("n")},),
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        said = first_line(error.__cause__ or error)  # the exporter's own words are about itself
        raise UserError(
            f"{type(network).__name__} cannot be written as ONNX ({said}): change what torch.onnx.export does not take"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Without the exporter's warnings, logs and dumps of graphs."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(level)


def largest_difference(network: nn.Module, images: Tensor, path: Path) -> float | None:
    """How far an ONNX file's logits are from the network's, in batches of several sizes.

    Returns:
        None without onnxruntime.

    Raises:
        UserError: Too far.
    """
    if find_spec("onnxruntime") is None:
        return None
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    farthest = 0.0
    with torch.inference_mode():
        for part in (images[:1], images[1:]):
            wanted = network(part)
            given = torch.from_numpy(session.run(["logits"], {"images": part.numpy()})[0])
            same = (given == wanted) | (given.isnan() & wanted.isnan())
            distances = (given - wanted).abs() / wanted.abs().clamp(min=1)
            distance = distances.masked_fill(same, 0).max().item()
            if not distance <= TOLERANCE:  # nor if it is no number
                raise UserError(
                    f"the ONNX file of {type(network).__name__} gives logits that differ by {distance:.2g} from the "
                    f"network's, more than {TOLERANCE}: change what torch.onnx.export does not translate"
                )
            farthest = max(farthest, distance)
    return farthest
