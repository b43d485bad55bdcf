"""What a run's `config.yaml` says about how it came about, apart from seeds and hyperparameters."""

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from cmu_lightning.experiment.identity import identity

WITHOUT_FINE_TUNING = frozenset({"RewoD", "SSD", "LFSSD", "ASSD", "Potion", "TunedSSD", "Keep"})
"""Unlearners on which `procedure.unlearn_steps` has no bearing."""

SEEDS = ("data.seed", "data.manipulation.seed", "model.seed")

BLOCK = re.compile(r"^(?=\w)", re.MULTILINE)
MODEL = re.compile(r"^model:\s+class_path: (\S+)", re.MULTILINE)
NEEDED = ("setting:", "data:", "network:", "procedure:", "trainer:")


@dataclass(frozen=True)
class Configuration:
    """Values by dotted names, as in `procedure.steps`.

    Args:
        steps: Steps of an original, of what retrains from scratch, and of what does not train.
        unlearn_steps: Steps of what fine-tunes.
        model: The stage's class, if it is none of this project's.
    """

    steps: dict[str, Any]
    unlearn_steps: dict[str, Any]
    model: str | None = None

    def of(self, method: str) -> dict[str, Any]:
        """What an unlearner's result depends on."""
        if self.model is not None:  # of which nobody knows which number of steps it takes
            return self.steps | self.unlearn_steps | {"model": self.model}
        return self.steps if method in WITHOUT_FINE_TUNING else self.unlearn_steps


def read_configuration(path: Path) -> Configuration | None:
    """Read a `config.yaml`; None if it is missing or damaged."""
    try:
        text = path.read_text()
    except (OSError, ValueError):
        return None
    read = _parse("".join(block for block in BLOCK.split(text) if block.startswith(NEEDED)))
    own = MODEL.search(text)
    if read is None or own is None or own[1].startswith("cmu_lightning."):
        return read
    return replace(read, model=own[1])


@cache
def _parse(text: str) -> Configuration | None:
    """YAML is slow to parse, and most runs of a study share their text but for `model:`."""
    import yaml

    try:
        config: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) | {"model": {}}
        deletion = frozenset({"identified", "seed"})
        taken = [identity(config, uses, deletion, None) for uses in ("steps", "unlearn_steps")]
        for own in taken:  # where a file is; the fingerprint tells which
            own["data"]["init_args"].pop("path", None)
    except (yaml.YAMLError, TypeError, KeyError, AttributeError):
        return None
    steps, unlearn_steps = ({key: value for key, value in own.items() if key != "original"} for own in taken)
    unlearn_steps["procedure"]["unlearn_steps"] = unlearn_steps["procedure"].pop("steps")
    return Configuration(flat(steps), flat(unlearn_steps))


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, as on the command line; without the seeds that every run has."""
    values: dict[str, Any] = {}
    for key, value in nested.items():
        name = prefix if key in ("init_args", "class_path") else f"{prefix}.{key}".removeprefix(".")
        if isinstance(value, dict):
            values |= flat(value, name)
        elif name not in SEEDS:
            values[name] = str(value).removeprefix("cmu_lightning.")
    return dict(sorted(values.items()))
