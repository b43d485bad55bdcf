"""Runs folders that no one trained for: made-up numbers in files as `fit` writes them."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

FRACTIONS = tuple(tenth / 10 for tenth in range(1, 11))
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "RewoD": {},
    "CF": {},
    "BadT": {"reduction": ("mean",)},
    "Scrub": {"distill": (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)},
    "SSD": {
        "selection": (0.1, 1.0, 10.0, 50.0, 100.0, 500.0, 1e3, 1e4, 1e5, 1e6),
        "dampening_ratio": (0.1, 0.5, 1.0, 5.0, 10.0),
    },
    "Potion": {},
}
ENVIRONMENT = {
    "python": "3.11.7",
    "torch": "2.15.0",
    "lightning": "2.6.6",
    "torchmetrics": "1.9.0",
    "device": "cpu x86_64",
    "world_size": 1,
    "threads": 1,
    "precision": "32-true",
    "revision": "0123456789abcdef0123456789abcdef01234567",
}
CONFIG = """\
seed_everything: {seed}
trainer:
  accelerator: cpu
  precision: null
  limit_val_batches: null
  limit_test_batches: null
  gradient_clip_val: null
  gradient_clip_algorithm: null
model:
  class_path: cmu_lightning.unlearning.{method}
  init_args:
    seed: {seed}
data:
  class_path: cmu_lightning.data.{data}
  init_args:
    manipulation:
      class_path: cmu_lightning.data.{manipulation}
      init_args:
        size: {size}
        seed: {seed}
    identified: {identified}
    seed: {seed}
    root: null
setting: {setting}
network:
  class_path: cmu_lightning.models.ResNet9
  init_args:
    width: {width}
procedure:
  steps: {steps}
  unlearn_steps: {unlearn_steps}
  lr: 0.025
original_seed: {seed}
runs_dir: runs
"""


class Study:
    """A writer of runs of one setting.

    Args:
        runs_dir: Folder that the runs are written to.
        setting: Name of the setting.
        manipulation: Class name.
        size: |S_m|.
        width: Width of the network.
        steps: Steps of the original.
        unlearn_steps: Steps of unlearners.
    """

    def __init__(
        self,
        runs_dir: Path,
        setting: str = "poison_digits",
        manipulation: str = "Poison",
        size: int = 36,
        width: int = 16,
        steps: int = 300,
        unlearn_steps: int = 100,
    ) -> None:
        self.runs_dir, self.setting = runs_dir, setting
        self.shared: dict[str, Any] = {"manipulation": manipulation, "size": size, "width": width, "steps": steps}
        self.unlearn_steps = unlearn_steps

    def hash(self, **about: Any) -> str:
        """Return a hash of whatever tells a run from others."""
        text = json.dumps([self.setting, self.shared, about], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def original(self, seed: int = 0, **measured: Any) -> Path:
        """Write an original and return its folder.

        Args:
            seed: Its seed.
            measured: Numbers in metrics.json that differ from the usual ones.
        """
        numbers = {"acc_corr": 0.1, "acc_retain": 0.99, "acc_manipulated": 0.1, "val_acc": 0.98, "seconds": 10.0}
        return self.write("Original", seed, self.hash(seed=seed), numbers | measured)

    def unlearner(
        self,
        method: str,
        identified: float = 1.0,
        seed: int = 0,
        hyperparameters: dict[str, Any] | None = None,
        **measured: Any,
    ) -> Path:
        """Write an unlearner and return its folder.

        Args:
            method: Class name.
            identified: Fraction of S_m that was found.
            seed: All its seeds.
            hyperparameters: The method's own.
            measured: Entries of metrics.json that are added or differ from the usual ones.
        """
        hyperparameters = hyperparameters or {}
        drawn = self.hash(seed=seed, method=method, at=identified, how=hyperparameters, steps=self.unlearn_steps)
        about = {
            "identified": identified,
            "deleted": round(identified * self.shared["size"]),
            "original": self.hash(seed=seed),
            "model_seed": seed,
            "data_seed": seed,
            "hyperparameters": hyperparameters,
            "seconds": 1.0,
        }
        return self.write(method, seed, measured.get("hash", drawn), about | measured)

    def write(self, method: str, seed: int, own: str, numbers: dict[str, Any]) -> Path:
        """Write a run and return its folder.

        Args:
            method: Class name.
            seed: Its seed.
            own: Hash.
            numbers: Entries of metrics.json beside those that all runs of the study share.
        """
        folder = self.runs_dir / self.setting / method / f"{seed}-{own}"
        metrics = {
            "setting": self.setting,
            "dataset": "digits",
            "model": "ResNet9",
            "manipulation": self.shared["manipulation"],
            "method": method,
            "manipulated": self.shared["size"],
            "seed": seed,
            "original_seed": seed,
            "manipulation_seed": seed,
            "hyperparameters": {},
            "hash": own,
            "fingerprint": 3422256668,
            "samples_forward": 1000,
            "samples_backward": 1000,
            "environment": ENVIRONMENT,
        } | numbers
        config = CONFIG.format(
            **self.shared,
            setting=self.setting,
            method=method,
            seed=seed,
            data="DigitsDataModule",
            identified=numbers.get("identified", 1.0),
            unlearn_steps=self.unlearn_steps,
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        return folder


def whole_study(study: Study, methods: Iterable[str] = GRIDS, seeds: Iterable[int] = (0, 1, 2)) -> Iterator[Path]:
    """Write every run of the paper's grids, with numbers that behave a little like the paper's, and yield the folders.

    Args:
        study: Setting of the runs.
        methods: Class names, of GRIDS.
        seeds: Seeds of the originals, each with all unlearners.
    """
    methods = list(methods)
    for seed in seeds:
        yield study.original(seed, **_measured("Original", 0, {}, seed, study))
        for method, identified in product(methods, FRACTIONS):
            grid = GRIDS[method]
            for values in product(*grid.values()):
                own = dict(zip(grid, values, strict=True))
                measured = _measured(method, identified, own, seed, study)
                folder = study.unlearner(method, identified, seed, own, **measured)
                if method in ("SSD", "Potion"):
                    _ratios(folder, study)
                yield folder


def _measured(method: str, identified: float, own: dict[str, Any], seed: int, study: Study) -> dict[str, float]:
    draw = random.Random(f"{study.setting} {method} {identified} {own} {seed}")
    poison = study.shared["manipulation"] == "Poison"
    dirty = 0.1 if poison else 0.55
    how_much = own["selection"] * max(own["dampening_ratio"], 0.3) if "selection" in own else 30.0
    if method in ("SSD", "Potion"):
        healed, harm = (0.9 if poison else 0.2) * _bump(how_much, 30), 0.85 / (1 + (how_much / 3) ** 2)
    elif method == "Scrub":
        healed, harm = identified**3 * 0.8 * _bump(own["distill"], 0.2), 0.02
    else:
        rises = {"RewoD": 6.0, "CF": 9.0, "BadT": 14.0, "Original": 99.0}[method]
        healed, harm = identified ** (rises if poison else rises / 5), 0.0
    clean = 0.97 - 0.1 * (not poison)
    acc_corr = _within((dirty + (clean - dirty) * healed) * (1 - harm) + draw.gauss(0, 0.01))
    acc_retain = _within(clean * (1 - harm) + draw.gauss(0, 0.004))
    measured = {
        "acc_corr": acc_corr,
        "acc_retain": acc_retain,
        "acc_manipulated": _within(acc_corr + 0.02),
        "val_acc": _within(acc_retain + draw.gauss(0, 0.004)),
        "seconds": 10 * draw.uniform(0.9, 1.1) * (1 if method in ("RewoD", "Original") else 0.2),
    }
    if method != "Original":
        changed = _within(max(healed, harm))
        measured |= {
            "fit_identified": 1 - changed,
            "fit_retain": acc_retain,
            "changed": changed,
            "val_acc_matched": acc_retain,
            "selection_score": (measured["val_acc"] + changed) / 2,
        }
    return measured


def _bump(value: float, best: float) -> float:
    return 1 / (1 + max(value / best, best / value) ** 0.7 / 2) if value > best else 1 / (1 + best / value / 100)


def _within(value: float) -> float:
    return min(1.0, max(0.0, value))


def _ratios(folder: Path, study: Study) -> None:
    edges = [-4 + at / 4 for at in range(29)]
    widest = 24 if study.shared["manipulation"] == "Poison" else 20
    counts = [round(2e5 * 2.0 ** -abs(at - 15)) if at <= widest else 0 for at in range(28)]
    content = {"log10_edges": edges, "counts": counts, "left_alone": sum(counts) - 120, "selected": 120}
    (folder / "importance_ratios.json").write_text(json.dumps(content))
