"""`python -m cmu_lightning export RUN --out FOLDER`: a run's network as safetensors and ONNX, with a model card.

Importing torch takes seconds, so functions import it once the arguments have been checked.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cmu_lightning.console import PlainConsole
from cmu_lightning.deploy.finished import FinishedRun
from cmu_lightning.deploy.output import refuse_foreign_files, replace_folder
from cmu_lightning.errors import UserError, first_line
from cmu_lightning.parsing import Parser, read_env

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cmu_lightning.data import CorruptedDataModule

PACKAGES = ("onnx", "onnxscript", "safetensors")
"""Packages of the extra `export`, in the order in which a missing one is reported."""
FILES = ("README.md", "model.onnx", "model.safetensors")
"""Files of an export."""
OPSET = 18
"""Version of the ONNX operators; runtimes since 2023 know it."""
TOLERANCE = 1e-4
"""Largest accepted difference of logits, relative for logits larger than 1."""
COMPARED = 100
"""Number of images on which the ONNX file is compared with the network."""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Command line after the word export.

    Returns:
        The exit code.

    Raises:
        UserError: The arguments cannot work, a part of the run or a package is missing, or the ONNX file gives other
            logits than the network.
    """
    given = _parser().parse_args(list(arguments))
    read_env()
    run = FinishedRun.open(given.run)
    # All that can be refused is refused before anything is computed.
    refuse_foreign_files(given.out, FILES)
    missing = next((name for name in PACKAGES if find_spec(name) is None), None)
    if missing:
        raise UserError(f"export needs {missing}: pip install '.[export]' in a checkout")
    status = PlainConsole(stderr=True).status(f"exporting {given.run}")
    try:
        with status, replace_folder(given.out) as folder:
            difference = _write(run, folder)
    except OSError as error:
        raise UserError(f"{given.out} cannot be written ({error}): give another --out") from error
    checked = "not compared with the network because onnxruntime is not installed"
    if difference is not None:
        checked = f"its logits differ from the network's by at most {difference:.1e}"
    console = PlainConsole(soft_wrap=True, highlight=False)
    for name, description in zip(FILES, ("the model card", checked, "the weights"), strict=True):
        console.print(f"{given.out / name}: {description}")
    return 0


def _parser() -> Parser:
    """Return the parser of the command's arguments."""
    parser = Parser("export", "Write a run's network as safetensors and ONNX files, with a model card.")
    parser.add_argument("run", type=Path, metavar="RUN", help="Folder of a finished run.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="A new or empty folder, or that of an earlier export."
    )
    return parser


def _write(run: FinishedRun, folder: Path) -> float | None:
    """Write the files of an export.

    Args:
        run: Run to export.
        folder: Empty folder to write to.

    Returns:
        The largest difference of the ONNX file's logits from the network's; None if they cannot be compared.
    """
    from cmu_lightning.deploy.card import model_card
    from cmu_lightning.experiment.restore import restore_data, restore_network
    from cmu_lightning.unlearning.networks import check_outputs

    network, data = restore_network(run.folder), restore_data(run.folder)
    check_outputs(network, data)  # settles how images lie in memory
    images = sample_inputs(data)
    write_weights(network, folder / "model.safetensors")
    write_onnx(network, images, folder / "model.onnx")
    difference = largest_difference(network, images, folder / "model.onnx")
    (folder / "README.md").write_text(model_card(run, data, difference))
    return difference


def sample_inputs(data: "CorruptedDataModule") -> "Tensor":
    """Return training images as the network takes them, shape (n, C, H, W), normalised.

    They are spread evenly over S_tr, and manipulated samples are among them.

    Args:
        data: Data of the run.
    """
    import torch

    # Manipulated samples first, then every n-th row of that order: triggers are among any number of rows.
    samples = data.samples
    rows = samples.manipulated.int().argsort(descending=True, stable=True)
    rows = rows[torch.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).long()]
    return data.pixels()(samples.images[rows], samples.manipulated[rows], samples.manipulation_index[rows]).contiguous()


def write_weights(network: "nn.Module", path: Path) -> None:
    """Write the whole state dict of a network as safetensors, under its own names.

    Args:
        network: Network to write.
        path: Path of the file.
    """
    from safetensors.torch import save

    # The format refuses tensors that share memory, so shared ones are written once for every name.
    state = {name: value.contiguous().clone() for name, value in network.state_dict().items()}
    path.write_bytes(save(state, metadata={"format": "pt"}))


def write_onnx(network: "nn.Module", images: "Tensor", path: Path) -> None:
    """Write a network as ONNX, with input `images` (n, C, H, W) and output `logits` (n, classes) for any n.

    Args:
        network: Network in evaluation mode.
        images: At least two of its inputs.
        path: Path of the file.

    Raises:
        UserError: The exporter cannot translate the network.
    """
    import torch

    try:
        with _silence():
            # One file without external data, in which the number of images stays open.
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
        # The exporter's own message is about itself; its cause is about the network.
        message = first_line(error.__cause__ or error)
        raise UserError(
            f"{type(network).__name__} cannot be written as ONNX ({message}): change what torch.onnx.export refuses"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the exporter's warnings, logs and dumps of graphs."""
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


def largest_difference(network: "nn.Module", images: "Tensor", path: Path) -> float | None:
    """Return the largest difference between the logits of an ONNX file and those of the network it was made from.

    It is max |a - b| / max(|b|, 1) over all logits, in a batch of one image and in one of all others.

    Args:
        network: Network in evaluation mode.
        images: At least two of its inputs.
        path: Path of the ONNX file.

    Returns:
        The difference; None if onnxruntime is not installed.

    Raises:
        UserError: The difference is larger than `TOLERANCE`.
    """
    if find_spec("onnxruntime") is None:
        return None
    import torch
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = 0.0
    with torch.inference_mode():
        for batch in (images[:1], images[1:]):
            expected = network(batch)
            given = torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])
            # Infinities and NaNs that both give are no difference.
            same = (given == expected) | (given.isnan() & expected.isnan())
            relative = (given - expected).abs() / expected.abs().clamp(min=1)
            difference = relative.masked_fill(same, 0).max().item()
            if not difference <= TOLERANCE:  # true for NaN, too
                raise UserError(
                    f"the ONNX file of {type(network).__name__} gives logits that differ by {difference:.2g} from the "
                    f"network's, more than {TOLERANCE}: change what torch.onnx.export translates wrongly"
                )
            largest = max(largest, difference)
    return largest
