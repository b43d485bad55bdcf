"""`python -m cmu_lightning export RUN --out FOLDER`."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from cmu_lightning.errors import UserError
from cmu_lightning.parsing import Parser, read_env
from cmu_lightning.serving.finished import read_finished
from cmu_lightning.serving.folder import refuse_occupied, whole_folder

NEEDED = ("onnx", "onnxscript", "safetensors")
FILES = ("README.md", "model.onnx", "model.safetensors")


def parser() -> Parser:
    """The command's arguments."""
    made = Parser("export", "A run's network as safetensors and ONNX files, with a model card.")
    made.add_argument("run", type=Path, metavar="RUN", help="Folder of a finished run.")
    made.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="A new or empty folder, or that of an earlier export."
    )
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Without the word export.

    Returns:
        The exit code.

    Raises:
        UserError: The arguments cannot work, something of the run or a package is missing, or the ONNX file does not
            do what the network does.
    """
    given = parser().parse_args(list(arguments))
    read_env()
    stored = read_finished(given.run)
    refuse_occupied(given.out, FILES)
    missing = next((name for name in NEEDED if find_spec(name) is None), None)
    if missing:
        raise UserError(f"export needs {missing}: pip install 'cmu-lightning[export]'")
    console = Console(stderr=True)
    try:
        with console.status(f"exporting {given.run}"), whole_folder(given.out) as folder:
            difference = _write(given.run, stored, folder)
    except OSError as error:
        raise UserError(f"{given.out} cannot be written ({error}): give another --out") from error
    checked = "not compared with the network, for onnxruntime is not installed"
    if difference is not None:
        checked = f"its logits are the network's to {difference:.1e}"
    said = Console(soft_wrap=True, highlight=False)
    for name, what in zip(FILES, ("the model card", checked, "the weights"), strict=True):
        said.print(f"{given.out / name}: {what}", markup=False)
    return 0


def _write(run: Path, stored: dict[str, Any], folder: Path) -> float | None:
    """Write the three files.

    Returns:
        How far the ONNX file's logits are from the network's at most; None if nothing can tell.
    """
    from cmu_lightning.experiment.restore import read_config, restore_data, restore_network
    from cmu_lightning.serving.card import card
    from cmu_lightning.serving.formats import largest_difference, sample_inputs, write_onnx, write_weights
    from cmu_lightning.serving.original import original_metrics

    network, data = restore_network(run), restore_data(run)
    images = sample_inputs(data)
    write_weights(network, folder / "model.safetensors")
    write_onnx(network, images, folder / "model.onnx")
    difference = largest_difference(network, images, folder / "model.onnx")
    text = card(run, read_config(run), stored, original_metrics(run, stored), data, difference)
    (folder / "README.md").write_text(text)
    return difference
