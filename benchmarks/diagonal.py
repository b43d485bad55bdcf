"""Compare the exact per-sample diagonal with one plain forward and backward, and with `vmap(grad)`, in time and memory.

    python -m benchmarks.diagonal [--images 128] [--rounds 5]

The paper's ResNet-9 on random images of 32x32 in one batch. Rounds alternate, medians are printed. Peak memory is
what the process's largest resident size grows by (Linux: /proc/self).
"""

import argparse
import ctypes
import json
import statistics
import time
from pathlib import Path

import torch
from torch.func import functional_call, grad, vmap

from benchmarks.machine import where
from cmu_lightning.data import Batch
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning.fisher import fisher_diagonal
from cmu_lightning.unlearning.importance import flat, task_loss


def plain(network, batch):
    return flat(torch.autograd.grad(task_loss(network(batch.image), batch.label).mean(), list(network.parameters())))


def ours(network, batch):
    return fisher_diagonal(network, [batch], task_loss, lambda total: total)


def vmapped(network, batch):
    values = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def of_one(values, image, label):
        return task_loss(functional_call(network, values, (image.unsqueeze(0),)), label.unsqueeze(0))[0]

    gradients = vmap(grad(of_one), in_dims=(None, 0, 0))(values, batch.image, batch.label)
    return flat(gradient.square().mean(0) for gradient in gradients.values())


def status(key: str) -> float:
    """MiB of one line of the process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def measured(work, *arguments) -> tuple[float, float]:
    """Seconds, and MiB by which the peak exceeds the earlier size."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # return what earlier calls freed first
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before, begin = status("VmRSS"), time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin, status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(0)
    network = ResNet9(10).eval()
    image = torch.randn(given.images, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, 10, (given.images,))
    batch = Batch(image, label, label, label > 0, label, given.images)
    ways = {"forward and backward": plain, "exact diagonal": ours, "vmap(grad)": vmapped}
    plain(network, batch)
    mine, theirs = ours(network, batch), vmapped(network, batch)
    assert (mine - theirs).abs().max() < 1e-3 * theirs.max()  # they are sums in single precision
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            rounds[name].append(measured(way, network, batch))
    for name, values in rounds.items():
        times, peaks = zip(*values, strict=True)
        ratio = statistics.median(t / p[0] for t, p in zip(times, rounds["forward and backward"], strict=True))
        print(f"{name:22} {statistics.median(times):7.2f} s  {ratio:5.2f} times the first  peak +{max(peaks):6.0f} MiB")
    print(json.dumps(where() | {"images": given.images}))


if __name__ == "__main__":
    main()
