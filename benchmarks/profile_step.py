"""Profile a stage's steps on the CPU and on the GPU.

    python -m benchmarks.profile_step [--setting poison_cifar10.yaml] [--steps 50] [--warmup 100] [options of fit ...]

Trains the setting's original. After unrecorded steps, by default more than an epoch of CIFAR-10, so that every size of
batch has occurred, so many steps are timed, as many more recorded only on the GPU, and as many more on the CPU too.
Prints steps a second of the first, the part of the second in which the GPU was busy, and the operators that take
longest in the third, whose trace for a browser (chrome://tracing, Perfetto) goes to `--trace FILE`. One more step is
counted in multiplications and additions, and compared with what a product of large matrices reaches on the same device,
in the same precision and with as many threads: the share of the peak.
"""

import argparse
import json
import tempfile
import time
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import where
from cmu_lightning.cli.fit import CLI
from cmu_lightning.cli.fit import main as run_fit

CPU = ProfilerActivity.CPU
ROWS = 15
SIDE = 2048
"""Rows and columns of the matrices whose product gives the peak."""


class Recorder(Callback):
    """Times some steps, then records some on the GPU, then some on both.

    Args:
        warmup: Steps before.
        steps: Of each kind.
    """

    def __init__(self, warmup: int, steps: int) -> None:
        self.steps = steps
        self.at = [warmup + number * steps for number in range(4)]
        gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self.profilers = [None, profile(activities=gpu) if gpu else None, profile(activities=[CPU, *gpu])]
        self.begin = 0.0
        self.counter = FlopCounterMode(display=False)
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Any, stage: Any, batch: Any, index: int) -> None:
        """Begin one kind."""
        if index in self.at[:-1]:
            self._begin(self.profilers[self.at.index(index)])
        if index == self.at[-1]:
            self.counter.__enter__()

    def on_train_batch_end(self, trainer: Any, stage: Any, outputs: Any, batch: Any, index: int) -> None:
        """End one."""
        if index + 1 in self.at[1:]:
            self._end(self.profilers[len(self.seconds)])
        if index == self.at[-1]:
            self.counter.__exit__(None, None, None)

    def _begin(self, profiler: profile | None) -> None:
        _wait()
        if profiler:
            profiler.__enter__()
        self.begin = time.perf_counter()

    def _end(self, profiler: profile | None) -> None:
        _wait()
        self.seconds.append(time.perf_counter() - self.begin)
        if profiler:
            profiler.__exit__(None, None, None)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def busy(profiler: profile) -> float:
    """Seconds in which at least one kernel ran on the GPU; annotations of the program do not count."""
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    )
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6


def peak(precision: str) -> float:
    """Return the operations a second of a product of two large matrices, in the precision of a run."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision.partition("-")[0], torch.float32)
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=kind) for _ in range(2))
    times = []
    for _ in range(10):
        _wait()
        begin = time.perf_counter()
        a @ b
        _wait()
        times.append(time.perf_counter() - begin)
    return 2 * SIDE**3 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="poison_cifar10.yaml")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--trace")
    given, options = parser.parse_known_args()
    recorder = Recorder(given.warmup, given.steps)
    steps = recorder.at[-1] + 1  # the last one is counted
    with tempfile.TemporaryDirectory() as folder:
        length = ["--procedure.steps", str(steps), "--trainer.val_check_interval", str(10 * steps)]
        quiet = [
            "--wandb.mode",
            "disabled",
            "--trainer.enable_progress_bar",
            "false",
            "--trainer.limit_test_batches",
            "1",
        ]
        arguments = ["fit", "--config", given.setting, *length, *quiet, "--runs_dir", folder, *options]
        make = CLI.instantiate_trainer

        precisions = []

        def with_recorder(self: CLI, **kwargs: Any) -> Any:
            trainer = make(self, **kwargs)
            precisions.append(str(trainer.precision))
            trainer.callbacks.append(recorder)
            return trainer

        CLI.instantiate_trainer = with_recorder  # type: ignore[method-assign]
        if run_fit(arguments):
            raise SystemExit(1)
    gpu = torch.cuda.is_available()
    timed, watched, recorded = recorder.seconds
    both = recorder.profilers[-1]
    print(both.key_averages().table(sort_by=f"self_{'cuda' if gpu else 'cpu'}_time_total", row_limit=ROWS))
    print(f"{given.steps / timed:.1f} steps a second, {1000 * timed / given.steps:.2f} ms a step")
    print(f"{1000 * recorded / given.steps:.2f} ms a step with the profiler")
    flops, best = recorder.counter.get_total_flops(), peak(precisions[0])
    reached = flops * given.steps / timed
    print(
        f"{flops / 1e9:.1f} GFLOP a step, {reached / 1e9:.1f} GFLOP/s: {reached / best:.0%} of the {best / 1e9:.1f} "
        f"of a product of matrices of {SIDE} rows, {precisions[0]}"
    )
    if gpu:
        print(f"the GPU is busy {busy(recorder.profilers[1]) / watched:.1%} of the time")
    if given.trace:
        both.export_chrome_trace(given.trace)
    print(json.dumps(where() | {"setting": given.setting, "steps": given.steps, "options": options}))


if __name__ == "__main__":
    main()
