"""Send signals to `fit` at random moments, on one process and on two, and compare the results after a rerun.

    python -m benchmarks.interrupt [--one 24] [--two 12] [--seed 0]

SIGINT, as by Ctrl-C, reaches all processes of a job; SIGTERM reaches all of them, as torchrun and SLURM send it, or
only one. The job has to end by itself within a minute, without a traceback, or to finish; the same command, given
again, has to leave what an undisturbed one leaves, bit for bit. Two processes have the variables that torchrun gives.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from socket import socket

from benchmarks.attack import Ended, Fork, contents, fit, print_counts

OUTCOMES = ("bit-identical", "ended before", "refused", "traceback", "hang", "OTHER")
"""`ended before`: the job finished in spite of the signal."""
LIMIT = 60.0
"""Seconds that a job may take to end; an idle machine needs five."""
AGAIN = 300.0
"""Seconds that a job may take from its beginning to its end."""
KINDS = (("SIGINT", "all"), ("SIGTERM", "all"), ("SIGTERM", "one"))
FIT = fit("--procedure.steps", "60", "--procedure.batch_size", "200")
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def start(count: int, folder: Path) -> list[Fork]:
    """Start a job in a folder."""
    if count == 1:
        return [Fork(FIT, folder)]
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    job |= {"TORCHELASTIC_RUN_ID": port, "GROUP_RANK": "0", "TORCHELASTIC_RESTART_COUNT": "0"}

    def rank(number: int) -> Fork:
        own = job | {"RANK": str(number), "LOCAL_RANK": str(number)}
        return Fork([*FIT, *TWO], folder, lambda: os.environ.update(own), f".errors{number}")

    return [rank(number) for number in range(2)]


def wait(job: list[Fork], limit: float) -> list[Ended]:
    """Return how the processes of a job have ended, all of them within a limit."""
    end = time.monotonic() + limit
    return [process.wait(end - time.monotonic()) for process in job]


def attack(count: int, name: str, whom: str, moment: float, expected: dict, folder: Path) -> str:
    """Send a signal to a new job, give its command again, and return the outcome."""
    job = start(count, folder)
    time.sleep(moment)
    for process in job if whom == "all" else job[-1:]:
        process.signal(getattr(signal, name))
    ended = wait(job, LIMIT)
    said = "\n".join(each.said for each in ended)
    if any(each.code is None for each in ended):
        return report("hang", said)
    if "Traceback" in said:
        return report("traceback", said)
    again = wait(start(count, folder), AGAIN)
    if failure := next((each.failure for each in again if each.failure), None):
        return report(failure, "\n".join(each.said for each in again))
    if any(each.code for each in again):
        return report("refused", "\n".join(each.said for each in again))
    if contents(folder) != expected:
        return report("OTHER", said)
    return "ended before" if all(each.code == 0 for each in ended) else "bit-identical"


def report(outcome: str, said: str) -> str:
    """Print the output, and return the outcome."""
    print(f"{outcome}: {said[-3000:]}", flush=True)
    return outcome


def main() -> None:
    """Send signals, and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=int, default=24)
    parser.add_argument("--two", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        for count, attacks in ((1, given.one), (2, given.two)):
            undisturbed, begin = Path(name) / f"{count}", time.monotonic()
            whole = wait(start(count, undisturbed), AGAIN)
            assert all(each.code == 0 for each in whole), whole
            lasts, expected = time.monotonic() - begin, contents(undisturbed)
            kinds = KINDS if count == 2 else KINDS[:2]
            for kind, whom in kinds:
                row = f"{kind} to {whom} of {count}" if count > 1 else f"{kind} to one process"
                counts[row] = Counter()
                for number in range(attacks // len(kinds)):
                    folder = Path(name) / f"{row}{number}"
                    outcome = attack(count, kind, whom, chance.uniform(0, lasts), expected, folder)
                    counts[row][outcome] += 1
                    shutil.rmtree(folder)
    print_counts("signal", counts, OUTCOMES)


if __name__ == "__main__":
    main()
