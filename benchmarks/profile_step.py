"""Where the time of a stage's steps goes, on the CPU and on the GPU.

    python benchmarks/profile_step.py [--setting poison_cifar10.yaml] [--steps 50] [--warmup 20] [options of fit ...]

Trains the setting's original under torch's profiler after some unrecorded steps, then prints the operators that take
longest, milliseconds a step, and, on a GPU, the part of the time in which it was busy. The trace for a browser
(chrome://tracing, Perfetto) goes to `--trace FILE`.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from datetime import date
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.profiler import ProfilerActivity, profile

from cmu_lightning import cli

ROWS = 15


class Recorder(Callback):
    """Records the steps after the first few."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self.profiler = profile(activities=[ProfilerActivity.CPU, *cuda])
        self.begin = self.seconds = 0.0

    def on_train_batch_start(self, trainer: Any, stage: Any, batch: Any, index: int) -> None:
        """Begin."""
        if index == self.warmup:
            _wait()
            self.profiler.__enter__()
            self.begin = time.perf_counter()

    def on_train_end(self, trainer: Any, stage: Any) -> None:
        """End."""
        _wait()
        self.seconds = time.perf_counter() - self.begin
        self.profiler.__exit__(None, None, None)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def busy(profiler: profile) -> float:
    """Seconds in which at least one kernel ran on the GPU."""
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="poison_cifar10.yaml")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--trace")
    given, options = parser.parse_known_args()
    recorder = Recorder(given.warmup)
    steps = given.warmup + given.steps
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
        make = cli.CLI.instantiate_trainer

        def with_recorder(self: cli.CLI, **kwargs: Any) -> Any:
            trainer = make(self, **kwargs)
            trainer.callbacks.append(recorder)
            return trainer

        cli.CLI.instantiate_trainer = with_recorder  # type: ignore[method-assign]
        if cli.main(arguments):
            raise SystemExit(1)
    averages = recorder.profiler.key_averages()
    gpu = torch.cuda.is_available()
    print(averages.table(sort_by="self_cuda_time_total" if gpu else "self_cpu_time_total", row_limit=ROWS))
    print(f"{1000 * recorder.seconds / given.steps:.2f} ms a step, profiler included")
    if gpu:
        print(f"the GPU is busy {busy(recorder.profiler) / recorder.seconds:.1%} of the time")
    if given.trace:
        recorder.profiler.export_chrome_trace(given.trace)
    where = {"date": str(date.today()), "cpus": os.cpu_count(), "threads": torch.get_num_threads()}
    where |= {"device": torch.cuda.get_device_name() if gpu else platform.machine(), "torch": torch.__version__}
    print(json.dumps(where | {"setting": given.setting, "steps": given.steps, "options": options}))


if __name__ == "__main__":
    main()
