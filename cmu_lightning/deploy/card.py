"""The model card of an export."""

from datetime import date
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cmu_lightning import __version__
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.deploy.choice import CHOICE_FILE
from cmu_lightning.deploy.export import OPSET, TOLERANCE
from cmu_lightning.deploy.finished import FinishedRun
from cmu_lightning.errors import UserError
from cmu_lightning.escaping import markdown, markdown_code
from cmu_lightning.experiment.run import MEASURED
from cmu_lightning.files import parse_json
from cmu_lightning.models.admitted import check_names
from cmu_lightning.models.factory import NetworkFromFunction
from cmu_lightning.selection import lost_margin

VERSIONS = ("python", "torch", "torchvision", "lightning", "torchmetrics")
"""Entries of a run's environment that the card names."""


class Ready(str):
    """Text that the template prints literally, because it is Markdown or example code; all other text is escaped."""


def model_card(run: FinishedRun, data: CorruptedDataModule, difference: float | None) -> str:
    """Return the text of the card in Markdown.

    Args:
        run: Exported run.
        data: Data of the run.
        difference: Largest difference of the ONNX file's logits from the network's; None if they were not compared.
    """
    config, metrics, original = run.config, run.metrics, run.original_metrics()
    given = config["data"]["init_args"]
    environment = metrics["environment"]
    height, width, channels = data.samples.images.shape[1:]
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Ready) else markdown(value),
    )
    templates.filters |= {"ready": Ready, "code": lambda value: Ready(markdown_code(value))}
    return templates.get_template("card.md.jinja").render(
        metrics=metrics,
        is_original=run.is_original,
        reason=_reason(run),
        rows=_rows(metrics, original),
        columns=["Original", metrics["method"]] if original else [metrics["method"]],
        destroyed=_is_destroyed(metrics, original or {}),
        data=data,
        shape=(channels, height, width),
        network=_network(config["network"]),
        procedure=_procedure(config),
        preparation=_preparation(given),
        manipulation=_arguments(given["manipulation"]),
        run=f"{metrics['setting']}/{metrics['method']}/{run.folder.resolve().name}",
        versions={name: environment[name] for name in VERSIONS if name in environment},
        difference=difference,
        tolerance=TOLERANCE,
        opset=OPSET,
        version=__version__,
        today=date.today().isoformat(),
    )


def _is_destroyed(metrics: dict[str, Any], original: dict[str, Any]) -> bool:
    """Return whether `repair` would call the model destroyed."""
    if "val_acc" not in original or "val_acc" not in metrics:
        return False
    return lost_margin(metrics["val_acc"], original["val_acc"], original.get("val_majority", 0.0))


def _reason(run: FinishedRun) -> str | None:
    """Return the sentence with which `repair` chose this run; None if it chose another one, or was not used."""
    try:
        choice = parse_json((run.runs_dir / run.metrics["setting"] / CHOICE_FILE).read_text())
        # The runs folder may have moved since, so method and name of the folder are compared.
        is_chosen = Path(choice["run"]).parts[-2:] == run.folder.resolve().parts[-2:]
        return str(choice["why"]) if is_chosen else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _rows(metrics: dict[str, Any], original: dict[str, Any] | None) -> list[list[str]]:
    """Return the name, the meaning and the values of every number that was measured.

    Args:
        metrics: Results of the run, in the last column.
        original: Results of its original, in the column before; None leaves that out.
    """
    columns = [original, metrics] if original else [metrics]
    return [
        [name, meaning.strip(), *(f"{column[name]:.4f}" if name in column else "" for column in columns)]
        for name, meaning in MEASURED.items()
        if any(name in column for column in columns)
    ]


def _network(spec: dict[str, Any]) -> dict[str, str]:
    """Return the module, the name and the arguments of the class or function that makes the network.

    Args:
        spec: `network` of a resolved config.
    """
    path = spec["class_path"]
    # A function of the user's is wrapped in a class; the card names the function.
    if path == f"{NetworkFromFunction.__module__}.{NetworkFromFunction.__name__}":
        path, spec = spec["init_args"]["function"], {"init_args": spec["init_args"].get("arguments")}
    module, _, name = path.rpartition(".")
    return {"module": module, "name": name, "arguments": _arguments(spec)}


def _arguments(spec: dict[str, Any]) -> str:
    """Return the arguments of a class in a config as they are written in Python."""
    given = (spec.get("init_args") or {}) | (spec.get("dict_kwargs") or {})
    return ", ".join(f"{name}={value!r}" for name, value in given.items())


def _procedure(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the procedure that the stage used; all of it if the class of the stage is not found.

    Args:
        config: Resolved config of the run.
    """
    procedure = {name: value for name, value in config["procedure"].items() if value is not None}
    try:
        check_names(config["model"], "model")  # before anything that the config names is imported
        stage = resolve_name(config["model"]["class_path"])
    except (ImportError, AttributeError, UserError):
        return procedure
    if stage.view == "passes":  # no optimiser and no schedule
        return {"batch_size": procedure["batch_size"]}
    # Originals and unlearners have numbers of steps of their own.
    unused = {"steps", "unlearn_steps"} - {stage.uses}
    return {name: value for name, value in procedure.items() if name not in unused}


def _preparation(given: dict[str, Any]) -> str:
    """Return how an image file becomes pixels before they are normalised; empty if nothing is done.

    Args:
        given: Arguments of the data module.
    """
    steps = ["converted to grey"] if given.get("grey") else []
    if side := given.get("image_size"):
        steps.append(f"resized to {given.get('resize') or side} pixels on the shorter side, cropped to the centre")
    return ", ".join(steps)
