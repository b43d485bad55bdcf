"""Mutate inputs, and test how the commands that read them react.

    python -m benchmarks.fuzz [--inputs 320] [--seed 0] [--only KIND ...] [--show]

A quarter each are configs, command lines of `fit`, lists of samples, and sweep files. A mutation deletes, doubles,
swaps or replaces words, lines or single characters, up to three times. An input has to work, or to be refused with exit
code 2 and one sentence; a refused one leaves no file behind. Mutated inputs that work run for two steps. `--show`
prints each input that was refused, with its sentence, for human review.
"""

import argparse
import random
import shlex
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.attack import SMALL, Ended, fit, print_counts, run, trained_on
from cmu_lightning.parsing import CONFIGS

OUTCOMES = ("works", "refused in a sentence", "leaves files", "traceback", "hang")
ODD = [
    *("", "null", "nan", "-inf", "1e999", "-1", "0", "1e4", "0x10", "1_000", "99999999999999999999", "0.1", "true"),
    *("[]", "{}", "[1, 2", "{a: b}", "&a [*a]", "*a", "!!python/object:os.system", "!!int x", "2026-13-45", "'", '"'),
    *("..", "/", "/etc/passwd", "os.system", "torch.nn.Linear", "SSD", "Poison", "ResNet9", "${args}", "%s", "{0}"),
    *(
        "é",
        "＝1",
        "\u202e",
        "\x1b[2J",
        "\x00",
        "\ud7ff",
        "a" * 5000,
        "[" * 200,
        "a: " * 100,
        "- " * 100,
        "--",
        "-c",
        "=",
    ),
]
"""Replacements of words."""
TINY = ["--procedure.steps", "2", "--procedure.unlearn_steps", "2", "--procedure.batch_size", "256"]


def mutate(text: str, chance: random.Random) -> str:
    """Return a text that was changed in one to three places."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        text = chance.choice((_characters, _words, _words, _lines))(text, chance)
    return text


def _characters(text: str, chance: random.Random) -> str:
    at = chance.randrange(len(text) + 1)
    new = chance.choice(("", text[at : at + 1] * 2, chance.choice(":,-#&*!|>'\"%@`{}[]= \t\n0aé\x07")))
    return text[:at] + new + text[at + 1 :]


def _words(text: str, chance: random.Random) -> str:
    words = text.split(" ")
    at, other = chance.randrange(len(words)), chance.randrange(len(words))
    words[at] = chance.choice((chance.choice(ODD), words[other], f"{words[at]} {words[at]}"))
    return " ".join(words)


def _lines(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[at] = chance.choice(("", lines[other], f"{lines[at]}\n{lines[at]}", f"  {lines[at]}", lines[at].strip()))
    return "\n".join(lines)


class Fuzz:
    """Inputs in a folder in which the small original of poison_digits has finished.

    Args:
        folder: Folder for all of them.
        chance: What mutations are drawn from.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance, self.base = folder, chance, folder / "base"
        assert run(fit(*TINY), self.base).code == 0
        self.configs = [
            path.read_text().replace("width: 16", "width: 4")
            for path in sorted(CONFIGS.rglob("*.yaml"))
            if "digits" in path.name or path.parent.name == "unlearn"
        ]
        self.sweeps = [path.read_text() for path in sorted((CONFIGS.parent / "sweeps/demo_digits").glob("*.yaml"))]
        first, second, third, *_ = trained_on(3)
        self.lists = [
            f"index\n{first}\n{second}\n{third}\n",
            f"{first}\n{second}\n",
            f"index,score\n{first},0.5\n{third},0.25\n",
            f"index,is_label_issue,label_score\n{first},True,0.1\n{second},False,0.9\n{third},True,0.2\n",
            f"index;label_quality;is_label_issue;corrected_label\n{first};0,5;1;2\n{second};0,25;0;3\n",
        ]

    def config(self, folder: Path) -> list[str]:
        """Return a command with a mutated config, which is one of a setting or of a method."""
        text = mutate(self.chance.choice(self.configs), self.chance)
        _write(folder / "mutated.yaml", text)
        first = [] if "setting" in text else ["--config", "poison_digits.yaml", "--network.width", "4"]
        return ["fit", *first, "--config", "mutated.yaml", *TINY, *SMALL[6:], "--runs_dir", "runs"]

    def line(self, folder: Path) -> list[str]:
        """Return a mutated command line."""
        method = self.chance.choice(("cf", "ssd", "scrub", "badt", "potion", "pure"))
        options = [
            *("--data.identified 0.5", "--seed_everything 1", "--model.seed 3", "--trainer.max_steps 5", "--threads 1"),
            *("--data.manipulation.size 30", "--trainer.precision 32", "--checkpoints none", "--data.val_size 100"),
            *("--trainer.devices 1", "--wandb.tags [a]", "--model.lr 0.1", "--compile false"),
        ]
        chosen = " ".join(self.chance.sample(options, 3))
        text = f"--config poison_digits.yaml --network.width 4 --config unlearn/{method}.yaml {chosen}"
        words = mutate(text, self.chance).split(" ")
        # An operating system passes no NUL on.
        words = [word.replace("\x00", "").encode("utf-8", "replace").decode() for word in words]
        return ["fit", *[word for word in words if word], *TINY, *SMALL[6:], "--runs_dir", "runs"]

    def samples(self, folder: Path) -> list[str]:
        """Return a command with a mutated list of samples."""
        _write(folder / "list.csv", mutate(self.chance.choice(self.lists), self.chance))
        discovery = ["--data.discovery", "Flagged", "--data.discovery.path", "list.csv"]
        return fit("--config", "unlearn/cf.yaml", *discovery, *TINY)

    def sweep(self, folder: Path) -> list[str]:
        """Return a command with a mutated sweep file, whose points are listed."""
        _write(folder / "mutated.yaml", mutate(self.chance.choice(self.sweeps), self.chance))
        return ["sweep", "mutated.yaml", "--dry_run", "--runs_dir", "runs"]

    def attack(self, kind: str) -> tuple[str, list[str], Ended]:
        """Mutate an input, run the command, and return the outcome, the command and the output."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(shutil.copytree(self.base, Path(name) / "copy"))
            command = getattr(self, kind)(folder)
            before = _files(folder)
            ended = run(command, folder)
            if ended.code == 0 and kind == "sweep":
                ended = run(lambda: _parse_points("mutated.yaml"), folder)
            if ended.failure or ended.code == 0:
                return ended.failure or "works", command, ended
            left = sorted(_files(folder) - before)
            if left:
                ended = Ended(ended.code, f"{ended.said}left: {', '.join(left)}")
            return "leaves files" if left else "refused in a sentence", command, ended


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".errors")
    }


def _parse_points(file: str) -> int:
    """Parse the command lines of a sweep's first and last points, as the sweep does before it runs any."""
    import sys

    from cmu_lightning.sweep.command import read_study
    from cmu_lightning.sweep.parse import find_mistake

    points = read_study([file], "runs", None).points
    for point in {point.key: point for point in points[:1] + points[-1:]}.values():
        if sentence := find_mistake(list(point.arguments)):
            sys.stderr.write(f"error: {sentence}\n")
            return 2
    return 0


def main() -> None:
    """Mutate inputs, and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=("config", "line", "samples", "sweep"))
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    counts: dict[str, Counter[str]] = {}
    kinds = {"config": "configs", "line": "command lines", "samples": "lists of samples", "sweep": "sweep files"}
    with tempfile.TemporaryDirectory() as name:
        for number, (kind, words) in enumerate(kinds.items()):
            if given.only and kind not in given.only:
                continue
            # Each kind has a separate seed, so that --only reproduces a failure.
            fuzz = Fuzz(Path(name) / kind, random.Random(1000 * given.seed + number))
            counts[words] = Counter()
            for _ in range(given.inputs // len(kinds)):
                outcome, command, ended = fuzz.attack(kind)
                counts[words][outcome] += 1
                if given.show or outcome not in ("works", "refused in a sentence"):
                    print(f"{outcome}: {shlex.join(command)[:400]!r}\n{ended.said[-3000:]!r}", flush=True)
    print_counts("mutated", counts, OUTCOMES)


if __name__ == "__main__":
    main()
