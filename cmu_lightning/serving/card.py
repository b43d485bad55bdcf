"""The model card of an export."""

import json
from datetime import date
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cmu_lightning import __version__
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.experiment.run import MEASURED
from cmu_lightning.models.factory import NetworkFromFunction
from cmu_lightning.repair.choose import CHOICE
from cmu_lightning.report.comparing.select import destroyed
from cmu_lightning.serving.finished import runs_dir_of
from cmu_lightning.serving.formats import OPSET, TOLERANCE

VERSIONS = ("python", "torch", "torchvision", "lightning", "torchmetrics")


def card(
    run: Path,
    config: dict[str, Any],
    stored: dict[str, Any],
    original: dict[str, Any] | None,
    data: CorruptedDataModule,
    difference: float | None,
) -> str:
    """The text, in Markdown.

    Args:
        run: Its folder.
        config: Resolved config of the run.
        stored: Its results.
        original: Its original's; None if they are gone, or if the run is an original.
        data: Data of the run.
        difference: Difference of the ONNX file's logits from the network's; None if they were not compared.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("card.md.jinja").render(
        stored=stored,
        is_original="original" not in stored,
        why=_why(run, stored),
        rows=_rows(stored, original),
        columns=["Original", stored["method"]] if original else [stored["method"]],
        destroyed=bool(destroyed(stored, original)),
        data=data,
        shape=_shape(data),
        network=_network(config["network"]),
        procedure=_procedure(config),
        preparation=_preparation(config["data"]["init_args"]),
        manipulation=_arguments(config["data"]["init_args"]["manipulation"]),
        run=f"{stored['setting']}/{stored['method']}/{run.resolve().name}",
        versions={name: stored["environment"][name] for name in VERSIONS if name in stored["environment"]},
        difference=difference,
        tolerance=TOLERANCE,
        opset=OPSET,
        version=__version__,
        today=date.today().isoformat(),
    )


def _network(spec: dict[str, Any]) -> dict[str, str]:
    """Where what makes it is to be had, its name and its arguments."""
    path, given = spec["class_path"], spec.get("init_args") or {}
    if path == f"{NetworkFromFunction.__module__}.{NetworkFromFunction.__name__}":
        path, given = given["function"], given.get("arguments") or {}
    module, _, name = path.rpartition(".")
    return {"module": module, "name": name, "arguments": _arguments({"init_args": given})}


def _procedure(config: dict[str, Any]) -> dict[str, Any]:
    """What the stage took of it; an original was made by one of its own. All, where the stage's class is gone."""
    given = dict(config["procedure"])
    try:
        kind = resolve_name(config["model"]["class_path"])
    except (ImportError, AttributeError):
        return given
    if kind.view == "passes":
        return {"batch_size": given["batch_size"]}
    return {name: value for name, value in given.items() if name not in {"steps", "unlearn_steps"} - {kind.uses}}


def _preparation(given: dict[str, Any]) -> str:
    """What an image file goes through before it is normalised."""
    grey = "made grey" if given.get("grey") else ""
    side = given.get("image_size")
    resized = f"resized to {given.get('resize') or side} pixels on the shorter side, the centre cut out" if side else ""
    return ", ".join(each for each in (grey, resized) if each)


def _why(run: Path, stored: dict[str, Any]) -> str | None:
    """The sentence of the `repair` that chose this run; None if none did."""
    try:
        told = json.loads((runs_dir_of(run) / stored["setting"] / CHOICE).read_text())
        chosen = Path(told["run"]).parts[-2:] == run.resolve().parts[-2:]
        return str(told["why"]) if chosen else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _rows(stored: dict[str, Any], original: dict[str, Any] | None) -> list[list[str]]:
    """Name, meaning and values of all that was measured."""
    columns = [original, stored] if original else [stored]
    return [
        [name, label.strip(), *(f"{column[name]:.4f}" if name in column else "" for column in columns)]
        for name, label in MEASURED.items()
        if any(name in column for column in columns)
    ]


def _shape(data: CorruptedDataModule) -> tuple[int, int, int]:
    height, width, channels = data.samples.images.shape[1:]
    return channels, height, width


def _arguments(spec: dict[str, Any]) -> str:
    """Of a class that a config names, as Python has them."""
    given = (spec.get("init_args") or {}) | (spec.get("dict_kwargs") or {})
    return ", ".join(f"{name}={value!r}" for name, value in given.items())
