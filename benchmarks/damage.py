"""Damage files of a run, and test how the commands that read them react.

    python -m benchmarks.damage [--flips 5] [--only TEXT ...] [--seed 0]

Each file gets single flipped bits, is cut off, emptied, and replaced by another file of its kind and by one of another
kind. The command that reads it then either says so in one sentence (`refused`), makes the file again (`remade`), leaves
out what is damaged and says so (`noticed`), or gives the undamaged file's numbers (`identical`: some bits of an archive
are never read). A list of samples or of results is what its user gives: another one gives other runs, under other
hashes (`another run`). Anything else is WRONG.
"""

import argparse
import json
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.attack import Ended, Fork, contents, fit, print_counts, run, trained_on
from cmu_lightning.report.load import pack, read_runs

OUTCOMES = ("noticed", "remade", "refused", "identical", "another run", "traceback", "hang", "WRONG")
CF = ("--config", "unlearn/cf.yaml", "--data.identified", "0.5")
SSD = ("--config", "unlearn/ssd.yaml")
REWIND = ("--config", "unlearn/scrub.yaml", "--model.rewind", "true")
LIST = ("--config", "unlearn/cf.yaml", "--data.discovery", "Flagged", "--data.discovery.path", "list.csv")

OF_USERS = ("list.csv", "packed.jsonl")
"""Files that a user gives: another valid file is the user's choice."""
OTHER = "another one"

Damage = Callable[[Path], None]


def flip(at: float) -> Damage:
    """Return a function that flips one bit of a file, at a fraction of its length."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        place = int(at * len(content) * 8)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)

    return damage


def cut(at: float) -> Damage:
    """Return a function that cuts a file off at a fraction of its length."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(at * path.stat().st_size)]) and None


def replace(by: Path) -> Damage:
    """Return a function that replaces a file by another one."""
    return lambda path: shutil.copy(by, path) and None


Files = tuple[str, list[str], Path, Path]
"""Arguments of a `Case`."""


class Case:
    """A file, the command that reads it, and the command's results without damage.

    Args:
        file: The file, relative to the folder.
        command: Words of the command, given in the folder.
        folder: Folder in which the command can be given; it is copied for each attack.
        other: Another file of the same kind.
    """

    def __init__(self, file: str, command: list[str], folder: Path, other: Path) -> None:
        self.file, self.command, self.folder, self.other = file, command, folder, other
        assert (folder / file).is_file(), file
        self.expected, ended = self._execute(lambda path: None)
        assert ended.code == 0, ended.said

    def _execute(self, damage: Damage) -> tuple[dict[str, Any], Ended]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(shutil.copytree(self.folder, Path(name) / "copy"))
            damage(folder / self.file)
            ended = run(self.command, folder)
            return contents(folder) if ended.code == 0 else {}, ended

    def attack(self, damage: Damage, is_other: bool) -> tuple[str, str]:
        """Damage the file, run the command, and return the outcome and the output.

        Args:
            damage: Function that damages the file.
            is_other: Whether it replaces the file by a whole one of the same kind.
        """
        found, ended = self._execute(damage)
        if ended.failure or ended.code:
            return ended.failure or "refused", ended.said
        # Files that the command only reads stay damaged: only its output counts.
        made = {name: content for name, content in self.expected.items() if name != self.file}
        if all(found.get(name) == content for name, content in made.items()):
            is_remade = found.get(self.file) == self.expected.get(self.file) and "damaged" in ended.said
            return "remade" if is_remade else "identical", ended.said
        if "skipped" in ended.shown or "damaged" in ended.said:
            return "noticed", ended.said
        if self.file in OF_USERS and (is_other or not made.keys() <= found.keys()):
            return "another run", ended.said
        differing = sorted(name for name, content in made.items() if found.get(name) != content)
        return "WRONG", f"{ended.said}differing: {', '.join(differing)}"


def interrupted(words: list[str], base: Path, folder: Path, file: str) -> Path:
    """Return a copy of a folder in which a command was killed as soon as a file existed."""
    shutil.copytree(base, folder)
    victim = Fork(words, folder)
    while not list(folder.glob(file)):
        assert not victim.poll(), victim.wait().said
        time.sleep(0.001)
    victim.signal(signal.SIGKILL)
    victim.wait()
    return folder


def prepare(folder: Path, only: list[str]) -> dict[str, Case]:
    """Make runs, and return the files to damage, by names; if texts are given, only names that contain one."""
    base, other = folder / "base", folder / "other"
    for options in ((), CF, ("--config", "unlearn/keep.yaml"), SSD):
        assert run(fit(*options), base).code == 0
    assert run(fit(*SSD, "--seed_everything", "1"), other).code == 0
    for place, rows in ((base, trained_on(30)), (other, trained_on(9))):
        (place / "list.csv").write_text("index,note\n" + "".join(f"{row},seen\n" for row in rows))
        pack(read_runs(place / "runs"), place / "packed.jsonl")  # as `report --pack`, without the report
    cases = _of_fit(folder, base, other) | _of_readers(base, other)
    return {name: Case(*cases[name]) for name in cases if not only or any(text in name for text in only)}


def _of_fit(folder: Path, base: Path, other: Path) -> dict[str, Files]:
    """Return the files that `fit` reads: of an original, of interrupted runs, importances and lists."""

    def without(method: str) -> Path:
        copied = Path(shutil.copytree(base, folder / f"without{method}"))
        shutil.rmtree(copied / "runs/poison_digits" / method)
        shutil.rmtree(copied / "runs/.sweep")
        return copied

    (folder / "empty").mkdir()
    half = interrupted(fit(), folder / "empty", folder / "half", "runs/*/Original/*/last.ckpt")
    rewinding = interrupted(fit(*REWIND), base, folder / "rewinding", "runs/*/Scrub/*/last.ckpt")
    original, importances, kept = "Original/*/last.ckpt", "Original/*/importances/*.pt", "runs/*/Scrub/*/epochs/*.pt"
    weights = other / find(other, original)
    return {
        "last.ckpt of an original, by fit of CF": (find(base, original), fit(*CF), without("CF"), weights),
        "last.ckpt of an interrupted run, by fit": (_newest(half, f"runs/*/{original}"), fit(), half, weights),
        "weights kept by Scrub, by fit": (_newest(rewinding, kept), fit(*REWIND), rewinding, weights),
        "importances, by fit of SSD": (
            find(base, importances),
            fit(*SSD),
            without("SSD"),
            other / find(other, importances),
        ),
        "list of samples, by fit": ("list.csv", fit(*LIST), base, other / "list.csv"),
    }


def _of_readers(base: Path, other: Path) -> dict[str, Files]:
    """Return the files of finished runs that `predict` and `list` read."""
    cf = str(Path(find(base, "CF/*/last.ckpt")).parent)
    predict, table = ["predict", cf, "--out", "predictions.csv"], ["list", "runs", "--csv", "table.csv"]
    metrics, config = (other / find(other, f"SSD/*/{file}") for file in ("metrics.json", "config.yaml"))
    packed = ["list", "packed.jsonl", "--csv", "table.csv"]
    return {
        "last.ckpt, by predict": (f"{cf}/last.ckpt", predict, base, base / find(base, "SSD/*/last.ckpt")),
        "packed results, by list": ("packed.jsonl", packed, base, other / "packed.jsonl"),
        "metrics.json, by list": (f"{cf}/metrics.json", table, base, metrics),
        "metrics.json, by predict": (f"{cf}/metrics.json", predict, base, metrics),
        "config.yaml, by predict": (f"{cf}/config.yaml", predict, base, config),
        "config.yaml, by list": (f"{cf}/config.yaml", table, base, config),
    }


def find(place: Path, pattern: str) -> str:
    """Return the only file of a pattern among the runs of a place, relative to the place."""
    (found,) = place.glob(f"runs/poison_digits/{pattern}")
    return str(found.relative_to(place))


def _newest(folder: Path, pattern: str) -> str:
    return str(max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns).relative_to(folder))


def main() -> None:
    """Damage files, and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], help="Damage those whose names hold one of these texts.")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        foreign = Path(name) / "foreign"
        foreign.write_text(json.dumps([0] * 1000))
        for kind, case in prepare(Path(name), given.only).items():
            chance = random.Random(f"{kind} {given.seed}")
            attacks = {f"bit {at:.4f}": flip(at) for at in (chance.random() for _ in range(given.flips))}
            attacks |= {f"cut at {at:.4f}": cut(at) for at in (chance.random(), chance.random())}
            attacks |= {"empty": cut(0), OTHER: replace(case.other), "foreign": replace(foreign)}
            counts[kind] = Counter()
            for damage, attack in attacks.items():
                outcome, said = case.attack(attack, damage == OTHER)
                counts[kind][outcome] += 1
                print(f"{kind}, {damage}: {outcome}: {' '.join(said.split()[-60:])}", flush=True)
    print_counts("damaged, and read", counts, OUTCOMES)


if __name__ == "__main__":
    main()
