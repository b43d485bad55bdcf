"""What each manipulation does to digits: `python benchmarks/manipulations.py --append docs/results/manipulations.md`.

For each it trains the original of `poison_digits.yaml` with that manipulation in place of Poison, and asks a clean
network, the retrained one without any poisoned sample, the same questions.
"""

import argparse
import datetime
import json
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

TRIED = [
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
ASKED = ("acc_corr", "acc_corr_nontarget", "asr", "acc_retain")
HEADER = """| manipulation | seed | `acc_corr` | clean | `asr` | clean | `acc_retain` | clean | `acc_manipulated` |
|---|---|---|---|---|---|---|---|---|
"""


def fit(folder: Path, seed: int, *arguments: str, method: str = "Original") -> Path:
    """The run of a method; the folder is of one original and what starts from it, and what is finished stays."""
    given = ["--runs_dir", str(folder), "--seed_everything", str(seed), *arguments]
    if code := main(["fit", "--config", "poison_digits.yaml", "--trainer.enable_progress_bar", "false", *given]):
        sys.exit(code)
    (made,) = folder.glob(f"poison_digits/{method}/*/metrics.json")
    return made.parent


def options(name: str, arguments: dict) -> list[str]:
    """As typed."""
    return [f"--data.manipulation={name}", *(f"--data.manipulation.{key}={value}" for key, value in arguments.items())]


def asked(network: nn.Module, data: CorruptedDataModule) -> dict[str, float]:
    """What `fit` measures on the test split, of any network."""
    what = evaluation.of_test(data)
    score = DomainAccuracy(len(what.names))
    with torch.no_grad():
        for batch in EvaluationBatches(what, data.pixels(), rank=0, world_size=1):
            score.update(network(batch.image).argmax(dim=1), batch.target, batch.domain)
    return {name: value for name, value in zip(what.names, score.compute().tolist(), strict=True) if value == value}


def trace(network: nn.Module, data: CorruptedDataModule) -> float:
    """Mean over S_m of <n, g> / |n| |g|, g being the loss's gradient at the clean image, in standard errors from 0."""
    chosen = torch.nonzero(data.samples.manipulated).flatten()
    nothing = torch.zeros(len(chosen), dtype=torch.bool)
    image = data.pixels()(data.samples.images[chosen], nothing).requires_grad_()
    loss = cross_entropy(network(image), data.samples.given_labels[chosen], reduction="sum")
    (gradient,) = torch.autograd.grad(loss, image)
    noise = data.manipulation.noise(chosen, image.shape[1:])
    cosine = nn.functional.cosine_similarity(gradient.flatten(1), noise.flatten(1))
    return float(cosine.mean() * (cosine.numel() * noise[0].numel()) ** 0.5)


def row(name: str, arguments: dict, seed: int, folder: Path, clean: nn.Module) -> str:
    """A line of the table."""
    run = fit(folder, seed, *options(name, arguments))
    measured = json.loads((run / "metrics.json").read_text())
    data = DigitsDataModule(getattr(manipulations, name)(**arguments, seed=seed))
    data.setup()
    reference = asked(clean, data)
    cells = [
        f"{values[key]:.3f}" if key in values else ""
        for key in ("acc_corr", "asr", "acc_retain")
        for values in (measured, reference)
    ]
    title = f"`{name}` " + ", ".join(f"{key} {value}" for key, value in arguments.items())
    if isinstance(data.manipulation, GaussianPoison):
        title += f"; trace {trace(cmu_lightning.load(run), data):+.1f}, clean {trace(clean, data):+.1f}"
    return f"| {title} | {seed} | " + " | ".join(cells) + f" | {measured['acc_manipulated']:.3f} |\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", help="Names of manipulations; default all.")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs/manipulations"))
    parser.add_argument("--append", type=Path, help="A Markdown file that gets the rows.")
    return parser.parse_args()


if __name__ == "__main__":
    command = f"python {' '.join(sys.argv)}"  # before the runs replace it by theirs
    given = arguments()
    chosen = [each for each in TRIED if given.only is None or each[0] in given.only]
    rows = []
    for seed in given.seeds:
        folder = given.runs_dir / str(seed)
        fit(folder / "clean", seed)
        clean = cmu_lightning.load(fit(folder / "clean", seed, "--config", "unlearn/rewod.yaml", method="RewoD"))
        for name, own in chosen:
            place = folder / "-".join([name, *map(str, own.values())])
            rows.append(row(name, own, seed, place, clean))
            print(rows[-1], end="", flush=True)
    if given.append:
        machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} thread"
        where = f"{machine}, torch {torch.__version__}, {datetime.date.today()}"
        with given.append.open("a") as file:
            file.write(f"\n`{command}` ({where})\n\n{HEADER}{''.join(rows)}")
