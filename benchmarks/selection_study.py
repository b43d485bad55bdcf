"""Runs on which selection rules are compared: many classes, one flagged sample, and a list that is half wrong.

    python -m benchmarks.selection_study FOLDER
    python -m cmu_lightning sweep FOLDER/sweeps --runs_dir FOLDER/runs
    python -m benchmarks.selection FOLDER/runs --by manipulation

The first command writes the data and the sweep files. Pairs of digits side by side are 100 classes of real images of
16x16 pixels, 60 of each to train on; the digits of training, validation and test images are other ones.
"""

import argparse
from pathlib import Path

import numpy as np
import yaml
from sklearn.datasets import load_digits

PARTS = {"train": (slice(0, 1000), 60), "val": (slice(1000, 1200), 10), "test": (slice(1200, None), 40)}
"""Which digits a split is made of, in random order, and how many pairs of each class it has."""

PAIRS = {
    "setting": "pairs_digits",
    "network": {"class_path": "ResNet9", "init_args": {"num_classes": 100, "in_channels": 1, "width": 16}},
    "procedure": {"steps": 600, "unlearn_steps": 150, "batch_size": 128, "lr": 0.05},
}
DIGITS = ["--config", "poison_digits.yaml", "--setting", "manipulations_digits"]
DIGITS += ["--network.width", "8", "--procedure.steps", "150"]
OF_PAIRS = ["{class_path: Poison, init_args: {size: 120}}"]
OF_PAIRS += ["{class_path: InterclassConfusion, init_args: {size: 60, pair: [35, 53]}}"]
OF_DIGITS = ["{class_path: InterclassConfusion, init_args: {size: 122, pair: [3, 5]}}"]
OF_DIGITS += ["{class_path: Poison, init_args: {size: 60}}"]


def pairs():
    """Return the arrays of all splits."""
    digits, random = load_digits(), np.random.RandomState(0)
    images, order = (digits.images * 15.9).astype(np.uint8), random.permutation(len(digits.target))
    arrays = {}
    for name, (part, count) in PARTS.items():
        rows, made, labels = order[part], [], []
        for first in range(10):
            for second in range(10):
                sides = [random.choice(rows[digits.target[rows] == digit], count) for digit in (first, second)]
                made.append(np.repeat(np.concatenate([images[side] for side in sides], 2), 2, 1))
                labels += [10 * first + second] * count
        shuffled = random.permutation(len(labels))
        arrays |= {f"{name}_images": np.concatenate(made)[shuffled], f"{name}_labels": np.array(labels)[shuffled]}
    return arrays


def sweep_file(name, options, manipulations, parameters):
    """Return the content of a sweep file over some manipulations."""
    command = ["${env}", "${interpreter}", "-m", "${program}", "fit", *options, "--threads", "1", "${args}"]
    return {
        "name": name,
        "program": "cmu_lightning",
        "method": "grid",
        "metric": {"name": "selection_score", "goal": "maximize"},
        "parameters": {
            "data.manipulation": {"values": manipulations},
            "seed_everything": {"values": [0]},
            **{key: {"values": values} for key, values in parameters.items()},
        },
        "command": command,
    }


def main():
    """Write the data and the sweep files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (folder / "sweeps").mkdir(parents=True, exist_ok=True)
    np.savez(folder / "pairs.npz", **pairs())
    init = {"path": str(folder / "pairs.npz"), "num_classes": 100, "padding": 1, "flip": False}
    init["manipulation"] = {"class_path": "Poison", "init_args": {"size": 120}}
    data = {"class_path": "TensorDataModule", "init_args": init}
    (folder / "pairs.yaml").write_text(yaml.safe_dump(PAIRS | {"data": data}))
    grid = {"model.class_path": ["SSD"], "model.dampening_ratio": [0.1, 1.0], "model.selection": [1.0, 10.0, 100.0]}
    few = {"model.class_path": ["SSD"], "model.dampening_ratio": [0.1], "model.selection": [1.0, 10.0]}
    one, half_wrong = (
        f"{{class_path: Uniform, init_args: {{{argument}}}}}" for argument in ("count: 1", "false_discovery_rate: 0.5")
    )
    tenth = {"data.identified": [0.1]}
    some = {"data.identified": [0.3], "data.discovery": [half_wrong]}
    options = ["--config", str(folder / "pairs.yaml")]
    studies = {
        "pairs": (options, OF_PAIRS, tenth | {"model.class_path": ["Keep", "CF", "BadT", "ASSD", "Potion"]}),
        "pairs_ssd": (options, OF_PAIRS, tenth | grid),
        "pairs_scrub": (options, OF_PAIRS, tenth | {"model.class_path": ["Scrub"], "model.distill": [0.1, 1.0]}),
        "one": (DIGITS, OF_DIGITS, {"data.discovery": [one], "model.class_path": ["Keep", "CF", "Potion"]}),
        "one_ssd": (DIGITS, OF_DIGITS, {"data.discovery": [one]} | few),
        "half_wrong": (DIGITS, OF_DIGITS, some | {"model.class_path": ["Keep", "CF", "Potion"]}),
        "half_wrong_ssd": (DIGITS, OF_DIGITS, some | few),
    }
    for name, study in studies.items():
        (folder / "sweeps" / f"{name}.yaml").write_text(yaml.safe_dump(sweep_file(name, *study), sort_keys=False))


if __name__ == "__main__":
    main()
