"""Compare BadT's step with frozen teachers to the same step with teachers inside the graph as in the released code.

    python -m benchmarks.badt_step [--images 128] [--rounds 7]

Loss, backward and optimiser step of the paper's ResNet-9 on one batch of random images; both ways reach the same loss.
Rounds alternate; the median of the ratios of each round is printed.
"""

import argparse
import json
import statistics
import time
from functools import partial

import torch

from benchmarks.machine import where
from cmu_lightning.data import Batch
from cmu_lightning.models import ResNet9
from cmu_lightning.unlearning import BadT, Procedure
from cmu_lightning.unlearning.distillation import divergence
from cmu_lightning.unlearning.networks import build


def prepared(images: int):
    torch.manual_seed(0)
    stage = BadT(ResNet9, Procedure())
    stage.start(build(ResNet9, 1))
    image, label = torch.randn(images, 3, 32, 32).contiguous(memory_format=torch.channels_last), torch.zeros(images)
    return stage, Batch(image, label.long(), label.long(), torch.rand(images) < 0.1, torch.arange(images), images)


def in_the_graph(stage, batch):
    """Return the same loss; autograd also goes through the teachers."""
    for teacher in stage.teachers:
        teacher.requires_grad_(True)
    good, bad = (teacher(batch.image) for teacher in stage.teachers)
    target = torch.where(batch.deleted.unsqueeze(1), bad, good)
    return divergence(stage.network(batch.image), target) / target.shape[1]


def step(stage, batch, optimizer, loss) -> float:
    begin = time.perf_counter()
    optimizer.zero_grad()
    value = loss(batch).mean()
    value.backward()
    optimizer.step()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    works = []
    for way in (None, in_the_graph):
        stage, batch = prepared(given.images)
        loss = stage.loss if way is None else partial(way, stage)
        optimizer = stage.procedure.optimizer(stage.network.parameters())
        works.append(partial(step, stage, batch, optimizer, loss))
    for work in works:
        work()
    rounds = [[work() for work in works] for _ in range(given.rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(graph / frozen for frozen, graph in rounds)
    print(f"frozen teachers {ours:.2f} s, teachers in the graph {theirs:.2f} s a step: {ratio:.2f} times")
    print(json.dumps(where() | {"images": given.images}))


if __name__ == "__main__":
    main()
