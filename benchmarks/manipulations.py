"""The harm of each manipulation: `python -m benchmarks.manipulations --append docs/results/manipulations.md`.

For each, the original of `poison_digits.yaml` is trained with it instead of Poison, and evaluated next to a
clean network: the one that is retrained without any poisoned sample.
"""

import argparse
import datetime
import json
import math
import os
import platform
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cmu_lightning
from cmu_lightning import data as manipulations
from cmu_lightning.cli.fit import main
from cmu_lightning.data import CorruptedDataModule, DigitsDataModule, GaussianPoison, evaluation
from cmu_lightning.data.batches import EvaluationBatches
from cmu_lightning.metrics import DomainAccuracy

CASES = [
    ("Poison", {"size": 36}),
    ("Blended", {"size": 36}),
    ("SIG", {"size": 36}),
    ("SIG", {"size": 60, "clean_label": True}),
    ("SIG", {"size": 60, "clean_label": True, "amplitude": 0.5}),
    ("WaNet", {"size": 120}),
    ("AllToAll", {"size": 120}),
    ("TaCT", {"size": 72}),
    ("AdapBlend", {"size": 72}),
    ("AdapPatch", {"size": 72}),
    ("InterclassConfusion", {"pair": [3, 5], "size": 122}),
    ("OneWayConfusion", {"size": 61}),
    ("AsymmetricNoise", {"size": 359}),
    ("SymmetricNoise", {"size": 359}),
    ("RandomSwap", {"size": 359}),
    ("GaussianPoison", {"size": 120}),
]
METRICS = ("acc_corr", "asr", "acc_retain")
HEADER = """| manipulation | seed | `acc_corr` | clean | `asr` | clean | `acc_retain` | clean | `acc_manipulated` |
|---|---|---|---|---|---|---|---|---|
"""


def fit(folder: Path, seed: int, *arguments: str, method: str = "Original") -> Path:
    """Return the folder of a run, which is executed unless it is finished.

    Args:
        folder: Runs folder of one original and of what starts from it.
        seed: Seed of everything.
        arguments: Further arguments of the command.
        method: Name of the method.
    """
    options = ["--runs_dir", str(folder), "--seed_everything", str(seed), *arguments]
    if code := main(["fit", "--config", "poison_digits.yaml", "--trainer.enable_progress_bar", "false", *options]):
        sys.exit(code)
    (metrics,) = folder.glob(f"poison_digits/{method}/*/metrics.json")
    return metrics.parent


def manipulation_options(name: str, arguments: dict) -> list[str]:
    """Return the command line's options of a manipulation."""
    return [f"--data.manipulation={name}", *(f"--data.manipulation.{key}={value}" for key, value in arguments.items())]


def test_metrics(network: nn.Module, data: CorruptedDataModule) -> dict[str, float]:
    """Return the metrics of a network on the test split, as `fit` measures them; those of empty domains are absent."""
    test = evaluation.of_test(data)
    accuracy = DomainAccuracy(len(test.names))
    with torch.no_grad():
        for batch in EvaluationBatches(test, data.pixels(), rank=0, world_size=1):
            accuracy.update(network(batch.image).argmax(dim=1), batch.target, batch.domain)
    values = zip(test.names, accuracy.compute().tolist(), strict=True)
    return {name: value for name, value in values if not math.isnan(value)}


def trace(network: nn.Module, data: CorruptedDataModule) -> float:
    """Return the trace of a `GaussianPoison` in a network: the mean over S_m of <n, g> / (|n| |g|).

    g is the gradient of the loss with respect to the clean image, n its noise. The mean is in units of its standard
    error for independent n and g, 1 / sqrt(|S_m| d) with d pixels.

    Args:
        network: The network.
        data: Data with a `GaussianPoison`.
    """
    chosen = torch.nonzero(data.samples.manipulated).flatten()
    unstamped = torch.zeros(len(chosen), dtype=torch.bool)
    image = data.pixels()(data.samples.images[chosen], unstamped).requires_grad_()
    loss = cross_entropy(network(image), data.samples.given_labels[chosen], reduction="sum")
    (gradient,) = torch.autograd.grad(loss, image)
    noise = data.manipulation.noise(chosen, image.shape[1:])
    cosine = nn.functional.cosine_similarity(gradient.flatten(1), noise.flatten(1))
    return float(cosine.mean() * (cosine.numel() * noise[0].numel()) ** 0.5)


def row(name: str, arguments: dict, seed: int, folder: Path, clean: nn.Module) -> str:
    """Return a row of the table, in Markdown.

    Args:
        name: Class of the manipulation.
        arguments: Its arguments.
        seed: Seed of everything.
        folder: Runs folder of its original.
        clean: The clean network.
    """
    run = fit(folder, seed, *manipulation_options(name, arguments))
    measured = json.loads((run / "metrics.json").read_text())
    data = DigitsDataModule(getattr(manipulations, name)(**arguments, seed=seed))
    data.setup()
    reference = test_metrics(clean, data)
    cells = [f"{values[key]:.3f}" if key in values else "" for key in METRICS for values in (measured, reference)]
    title = f"`{name}` " + ", ".join(f"{key} {value}" for key, value in arguments.items())
    if isinstance(data.manipulation, GaussianPoison):
        title += f"; trace {trace(cmu_lightning.load(run), data):+.1f}, clean {trace(clean, data):+.1f}"
    return f"| {title} | {seed} | " + " | ".join(cells) + f" | {measured['acc_manipulated']:.3f} |\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", help="Classes of manipulations; default all.")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs/manipulations"))
    parser.add_argument("--append", type=Path, help="Markdown file to append the rows to.")
    return parser.parse_args()


if __name__ == "__main__":
    command = f"python {' '.join(sys.argv)}"  # runs replace sys.argv
    options = parse_arguments()
    chosen = [each for each in CASES if options.only is None or each[0] in options.only]
    rows = []
    for seed in options.seeds:
        folder = options.runs_dir / str(seed)
        fit(folder / "clean", seed)
        clean = cmu_lightning.load(fit(folder / "clean", seed, "--config", "unlearn/rewod.yaml", method="RewoD"))
        for name, values in chosen:
            runs_dir = folder / "-".join([name, *map(str, values.values())])
            rows.append(row(name, values, seed, runs_dir, clean))
            print(rows[-1], end="", flush=True)
    if options.append:
        machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} thread"
        environment = f"{machine}, torch {torch.__version__}, {datetime.date.today()}"
        with options.append.open("a") as file:
            file.write(f"\n`{command}` ({environment})\n\n{HEADER}{''.join(rows)}")
