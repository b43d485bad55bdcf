"""Compare images per second in training with the loop of the paper's released code, in one process.

    python -m benchmarks.released_code --repository DIR --cifar DIR [--workers 4 16] [--steps 98] [--rounds 3]

DIR is a checkout of the authors' public repository, which is imported unchanged and is no part of this project; its
import of timm, which ResNet-9 does not need, is stubbed. Both train ResNet-9 on poisoned CIFAR-10 in batches of 512 in
mixed precision where there is a GPU. Rounds alternate; an epoch's start of loader workers counts, as it does there.
Without a GPU its calls of `cuda()` do nothing.
"""

import argparse
import importlib
import json
import statistics
import sys
import time
import types
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import CIFAR10

from benchmarks.machine import where
from cmu_lightning.cli.messages import silence_notices
from cmu_lightning.cli.values import precision
from cmu_lightning.data import CIFAR10DataModule, Poison
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import Original, Procedure

GPU = torch.cuda.is_available()


class Clock(Callback):
    """Seconds from the end of the first steps to the end of the last."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.begin = self.seconds = 0.0

    def on_train_batch_start(self, trainer: Any, stage: Any, batch: Any, index: int) -> None:
        """Start."""
        if index == self.warmup:
            wait()
            self.begin = time.perf_counter()

    def on_train_end(self, trainer: Any, stage: Any) -> None:
        """Stop."""
        wait()
        self.seconds = time.perf_counter() - self.begin


def wait() -> None:
    if GPU:
        torch.cuda.synchronize()


def ours(given: argparse.Namespace) -> float:
    """Images a second."""
    clock = Clock(given.warmup)
    procedure = Procedure(steps=given.warmup + given.steps, batch_size=given.batch_size)
    trainer = Trainer(
        max_epochs=1, logger=False, callbacks=[clock], precision=precision("auto"), benchmark=True, devices=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    data = CIFAR10DataModule(Poison(size=500), root=given.cifar, val_size=0)
    trainer.fit(Original(partial(ResNet9, num_classes=10), procedure), datamodule=data)
    return given.steps * given.batch_size / clock.seconds


def theirs(given: argparse.Namespace, source: types.SimpleNamespace, workers: int) -> float:
    """Images a second."""
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    moved = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    changed = transforms.Compose([*moved, transforms.ToTensor(), transforms.Normalize(mean, std)])
    poisoned = {int(index): 0 for index in np.random.RandomState(0).choice(50_000, 500, replace=False)}
    train = CIFAR10(given.cifar, train=True, transform=changed)
    wrapped = source.datasets.DatasetWrapper(train, poisoned, mode="pretrain", corrupt_val=np.array(2.1264887))
    torch.backends.cudnn.benchmark = False  # the released code's setting; ours has another
    options = types.SimpleNamespace(max_lr=0.025, wd=5e-4, train_iters=10**6, num_classes=10)
    method = source.methods.Naive(opt=options, model=source.resnet.resnet9(10))

    def epoch(steps: int) -> float:
        part = Subset(wrapped, range(min(steps * given.batch_size, len(wrapped))))
        loader = DataLoader(part, given.batch_size, shuffle=True, num_workers=workers, pin_memory=GPU)
        wait()
        begin = time.perf_counter()
        method.train_one_epoch(loader)
        wait()
        return time.perf_counter() - begin

    epoch(min(given.warmup, 5))
    return given.steps * given.batch_size / epoch(given.steps)


def released(repository: Path) -> types.SimpleNamespace:
    """Return the modules of the authors' repository."""
    if not (repository / "src/methods.py").is_file():
        sys.exit(f"{repository} is no checkout of the released code: it has no src/methods.py")
    sys.path.insert(0, str(repository / "src"))
    sys.modules["timm"] = types.ModuleType("timm")
    if not GPU:
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
        torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    return types.SimpleNamespace(**{name: importlib.import_module(name) for name in ("methods", "datasets", "resnet")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--cifar", required=True, help="folder of CIFAR-10")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--steps", type=int, default=97, help="of a timed epoch; CIFAR-10 has 97 of 512 images")
    parser.add_argument("--warmup", type=int, default=98, help="an epoch, so that every size of batch has come by")
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    silence_notices()
    warnings.filterwarnings("ignore")
    source = released(given.repository)
    found: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        found.setdefault("ours", []).append(ours(given))
        for workers in given.workers:
            found.setdefault(f"released code, {workers} workers", []).append(theirs(given, source, workers))
    rates = {name: statistics.median(each) for name, each in found.items()}
    for name, rate in rates.items():
        print(f"{name:28} {rate:10,.0f} images a second; ours is {rates['ours'] / rate:.1f} times as fast")
    print(
        json.dumps(where() | {key: value for key, value in vars(given).items() if key not in ("repository", "cifar")})
    )


if __name__ == "__main__":
    main()
