"""Finished runs as a table: one row per run, from a runs folder or from a file of packed runs.

A packed file holds one run per line: its `metrics.json`, in it `config` (the resolved config, as data or as the text of
`config.yaml`), and `importance_ratios` where the run wrote that file. `digest` covers everything else in the line:
it reveals a damaged line, and lines of earlier versions lack it. Other keys of a line are ignored.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.identity import identity
from cmu_lightning.experiment.run import COST, MEASURED, ROWS, take_digest
from cmu_lightning.files import digest_of, parse_json, write_atomically
from cmu_lightning.yaml_files import parse_yaml

IDENTITY: dict[str, type] = {
    "setting": str,
    "dataset": str,
    "model": str,
    "manipulation": str,
    "method": str,
    "hash": str,
    "manipulated": int,
    "fingerprint": int,
    "hyperparameters": dict,
    "environment": dict,
}
"""Keys of every `metrics.json`."""

SEEDS = ("original_seed", "manipulation_seed", "model_seed", "data_seed")
"""Seeds that distinguish repetitions; a stage may lack the last two."""

COLUMNS = [
    *("folder", "setting", "dataset", "model", "manipulation", "method", "manipulated", "identified", "deleted"),
    *("seed", *SEEDS, "hash", "original", "fingerprint", *MEASURED, "false_positives", *COST),
]
"""The first columns of every table of runs, in this order."""

UNKNOWN = "Unknown"
"""The manipulation of runs whose data were changed in an unknown way."""

OF_REPAIR = "of unknown manipulation: repair compares such runs"
"""Why runs of unknown manipulation are skipped."""

WITHOUT_FINE_TUNING = frozenset({"RewoD", "SSD", "LFSSD", "ASSD", "Potion", "TunedSSD", "SAP", "Keep"})
"""Unlearners on which `procedure.unlearn_steps` has no bearing."""

SEEDS_IN_CONFIG = ("data.seed", "data.manipulation.seed", "model.seed")


class Skipped(NamedTuple):
    """Something among the runs that contributes no numbers, and the reason."""

    path: str
    reason: str


class Settings(NamedTuple):
    """The settings in a run's config that its result depends on, by dotted names, without seeds and hyperparameters.

    Args:
        steps: Settings of an original, of methods that retrain from scratch, and of methods that do not train.
        unlearn_steps: Settings of methods that fine-tune.
        model: Class path of the stage, if it is not one of this project's.
    """

    steps: dict[str, str]
    unlearn_steps: dict[str, str]
    model: str | None = None

    def of(self, method: str) -> dict[str, str]:
        """Return the settings that an unlearner's result depends on.

        Args:
            method: Its class name.
        """
        if self.model is not None:  # it may take either number of steps
            return self.steps | self.unlearn_steps | {"model": self.model}
        return self.steps if method in WITHOUT_FINE_TUNING else self.unlearn_steps


@dataclass
class Runs:
    """The runs of a folder or of a packed file.

    Args:
        table: One row per run in the order of their folders: `COLUMNS` and all other plain values of `metrics.json`; as
            objects `metrics` (the whole file), `config` (the resolved config, or None) and `settings` (`Settings`, or
            None).
        skipped: Everything that contributes no numbers.
        source: The folder or the file.
        ratios: Importance ratios of packed runs by their folders; None if the folders contain them.
    """

    table: pd.DataFrame
    skipped: list[Skipped]
    source: Path
    ratios: dict[str, Any] | None = None


def read_runs(source: Path) -> Runs:
    """Read all finished runs, and name everything else that was found.

    Args:
        source: A runs folder, or a file that `report --pack` or `benchmarks/reproduce.py` has written.

    Raises:
        UserError: The file cannot be read, or holds no run.
    """
    skipped: list[Skipped] = []
    found = _from_folder(source, source, skipped) if source.is_dir() else _from_file(source, skipped)
    records: dict[tuple[str, ...], dict[str, Any]] = {}
    packed: dict[str, Any] = {}
    for folder, metrics, config, ratios in found:
        setting, method, run = Path(folder).parts
        if reason := what_is_wrong(metrics, setting, method, run):
            skipped.append(Skipped(f"{folder}/metrics.json", reason))
            continue
        settings = None if config is None else _settings(config, metrics.get("processes"))
        record = _plain(metrics) | {"folder": folder, "metrics": metrics, "config": config if settings else None}
        record["settings"] = settings
        packed[folder] = ratios
        # The same run may be in several folders, named after different seeds; it counts once.
        first = records.setdefault((setting, method, metrics["hash"]), record)
        if first is not record:
            skipped.append(Skipped(folder, f"the same run as {first['folder']}"))
        elif settings is None:
            skipped.append(Skipped(f"{folder}/config.yaml", "missing or damaged: its run counts as a separate variant"))
    return Runs(_as_table(list(records.values())), skipped, source, None if source.is_dir() else packed)


def results(source: str | Path) -> pd.DataFrame:
    """Return the finished runs of a folder or of a packed file as a table, one row per run.

    Columns are `folder` (relative to the runs folder), everything plain in `metrics.json` under its own name, and with
    dotted names `hyperparameters.NAME`, `environment.NAME`, and from the config `network.NAME`, `procedure.NAME` and
    `data.NAME`, named as on the command line. What was not measured is missing. What was skipped is in
    `table.attrs["skipped"]`, as pairs of path and reason.

    Args:
        source: A runs folder, or a file that `report --pack` has written.

    Raises:
        UserError: There is nothing at the path, or the file holds no run.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"there is no runs folder {path}: give one that fit or sweep has written to")
    runs = read_runs(path)
    details = []
    for metrics, config in zip(runs.table["metrics"], runs.table["config"], strict=True):
        own = {name: metrics[name] for name in ("hyperparameters", "environment")}
        own |= {name: (config or {}).get(name, {}) for name in ("network", "procedure", "data")}
        details.append(_dotted(own))
    plain = runs.table.drop(columns=["metrics", "config", "settings"])
    wide = pd.concat([plain, _whole_numbers(pd.DataFrame(details, index=plain.index), details)], axis=1)
    table = wide.dropna(axis=1, how="all")
    table.attrs["skipped"] = [tuple(each) for each in runs.skipped]
    return table


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Return the rows of a table, whose columns are their attributes.

    Args:
        table: Any table of runs.
    """
    return iter(table.itertuples())


def settings_of(run: Any) -> dict[str, str]:
    """Return the settings that an unlearner's result depends on, by dotted names; empty if its config is not known.

    Args:
        run: Its row.
    """
    return run.settings.of(run.method) if run.settings else {}


def seeds_text(run: Mapping[str, Any]) -> str:
    """Return the seeds of a run as text: one number if all are the same, else each with its name.

    Args:
        run: Its row; a seed that its stage does not have is missing.
    """
    known = {name.removesuffix("_seed"): int(run[name]) for name in SEEDS if not pd.isna(run[name])}
    if len(set(known.values())) == 1:
        return str(known["original"])
    return " ".join(f"{name}={seed}" for name, seed in known.items())


def read_ratios(runs: Runs, folder: str) -> dict[str, Any] | Skipped | None:
    """Return the histogram of importance ratios that a run of SSD's family wrote; None if there is none.

    It has `log10_edges` (ascending), `counts` (one fewer), `left_alone` (parameters whose importances tell nothing) and
    `selected` (parameters that were dampened).

    Args:
        runs: The runs that include it.
        folder: Folder of the run.
    """
    name = f"{folder}/importance_ratios.json"
    try:
        content = runs.ratios.get(folder) if runs.ratios is not None else parse_json((runs.source / name).read_bytes())
        if content is None:
            return None
        ratios = {key: content[key] for key in ("log10_edges", "counts", "left_alone", "selected")}
        whole = _is_histogram(**ratios)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        whole = False
    return ratios if whole else Skipped(name, "damaged: no histogram")


def pack_line(folder: Path, metrics: dict[str, Any], config: Any = None) -> dict[str, Any]:
    """Return a run as a line of a packed file.

    Args:
        folder: Folder of the run.
        metrics: Its results.
        config: Its resolved config; None takes what its results hold, or else the text of its `config.yaml`.
    """
    config = config or metrics.get("config") or (folder / "config.yaml").read_text()
    ratios = read_ratios(Runs(pd.DataFrame(), [], folder.parent), folder.name)
    return metrics | {"config": config} | ({"importance_ratios": ratios} if isinstance(ratios, dict) else {})


def pack(runs: Runs, path: Path) -> int:
    """Write runs into one file, and return how many; runs without a config are left out.

    Args:
        runs: The runs.
        path: Path of the file, which is replaced.

    Raises:
        UserError: The file cannot be written.
    """
    lines = []
    for run in rows_of(runs.table[runs.table["config"].notna()]):
        ratios = read_ratios(runs, run.folder)
        line = run.metrics | {"config": run.config}
        lines.append(line | ({"importance_ratios": ratios} if isinstance(ratios, dict) else {}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(f"{json.dumps(with_digest(line))}\n" for line in lines))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give another --pack") from error
    return len(lines)


def with_digest(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line of a packed file with a digest of its content.

    Args:
        line: Result of `pack_line`, with any other keys.
    """
    plain: dict[str, Any] = json.loads(json.dumps(line, default=str))
    return plain | {"digest": digest_of(plain)}


def is_undamaged(line: dict[str, Any]) -> bool:
    """Return whether a line is undamaged; a line of an earlier version, without a digest, counts as undamaged.

    Args:
        line: Line of a packed file.
    """
    content = {key: value for key, value in line.items() if key != "digest"}
    return "digest" not in line or line["digest"] == digest_of(content)


Found = tuple[str, dict[str, Any], Any, Any]
"""A run's folder relative to the runs folder, its metrics, its config and its packed importance ratios."""


def _from_folder(runs_dir: Path, folder: Path, skipped: list[Skipped]) -> Iterator[Found]:
    """Yield the runs at `<setting>/<method>/<run>`; hidden entries are locks and the like."""
    within = folder.relative_to(runs_dir)
    try:
        with os.scandir(folder) as entries:
            visible = sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)
    except OSError as error:
        skipped.append(Skipped(str(within), f"cannot be read ({error.strerror})"))
        return
    if not visible:
        skipped.append(Skipped(str(within), "an empty folder"))
    for entry in visible:
        inner = folder / entry.name
        if not entry.is_dir():
            reason = "what repair chose" if entry.name == "repaired.json" else "no run: a file of something else"
            skipped.append(Skipped(str(within / entry.name), reason))
        elif len(within.parts) < 2:
            yield from _from_folder(runs_dir, inner, skipped)
        else:
            read = _read_run(inner, str(within / entry.name))
            if isinstance(read, Skipped):
                skipped.append(read)
            else:
                yield read


def _read_run(folder: Path, name: str) -> Found | Skipped:
    try:
        metrics = parse_json((folder / "metrics.json").read_bytes())
    except FileNotFoundError:
        begun = any((folder / part).exists() for part in ("config.yaml", "last.ckpt", ROWS))
        return Skipped(name, "not finished: it has no metrics.json" if begun else "no run: it has no metrics.json")
    except OSError as error:
        return Skipped(f"{name}/metrics.json", f"cannot be read ({error.strerror})")
    except ValueError:
        return Skipped(f"{name}/metrics.json", "damaged: no whole JSON")
    if isinstance(metrics, dict) and not take_digest(metrics):
        return Skipped(f"{name}/metrics.json", "damaged or edited: its digest does not agree")
    config = metrics.pop("config", None) if isinstance(metrics, dict) else None
    if config is None:
        try:
            config = _from_yaml((folder / "config.yaml").read_text())
        except (OSError, ValueError):
            config = None
    return name, metrics, config, None


def _from_file(path: Path, skipped: list[Skipped]) -> list[Found]:
    """Return the runs of a packed file, in the order that their folders would have."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"the results file {path} cannot be read ({error.strerror}): give another one") from error
    found: dict[str, Found] = {}
    for number, text in enumerate(lines, 1):
        read = _read_line(text, found) if text.strip() else None
        if isinstance(read, str):
            skipped.append(Skipped(f"{path.name}, line {number}", read))
        elif read is not None:
            found[read[0]] = read
    if not found:
        first = f" ({skipped[0].path}: {skipped[0].reason})" if skipped else ""
        raise UserError(f"{path} holds no run{first}: give a runs folder, or a file that report --pack has written")
    return [found[name] for name in sorted(found, key=lambda name: name.split("/"))]


def _read_line(text: str, before: Iterable[str]) -> Found | str:
    """Return a run, or why a line is not one."""
    try:
        content = parse_json(text)
    except ValueError:
        return "damaged: no whole JSON"
    if not isinstance(content, dict):
        return "foreign: no JSON object"
    if not is_undamaged(content):
        return "damaged: its digest does not agree"
    content.pop("digest", None)
    if "failed" in content:
        return f"the run failed: {content['failed']}"
    named = [str(content.get(key, "")) for key in ("setting", "method", "seed", "hash")]
    if not all(each.strip(".") and "/" not in each and each == each.strip() for each in named):
        return "foreign or damaged: no setting, method, seed and hash that name a folder"
    name = f"{named[0]}/{named[1]}/{named[2]}-{named[3]}"
    if name in before:
        return "the same run as on an earlier line"
    config, ratios = content.pop("config", None), content.pop("importance_ratios", None)
    return name, content, _from_yaml(config) if isinstance(config, str) else config, ratios


def _from_yaml(text: str) -> Any:
    """Return what a `config.yaml` says; None if it is no YAML."""
    import yaml

    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return None


def what_is_wrong(metrics: Any, setting: str, method: str, run: str) -> str | None:
    """Return why a `metrics.json` contributes no numbers; None if it is valid.

    Args:
        metrics: Its content.
        setting: Name of the folder three levels up.
        method: Name of the folder two levels up.
        run: Name of the folder one level up.
    """
    if not isinstance(metrics, dict):
        return "foreign: no JSON object"
    if metrics.get("manipulation") == UNKNOWN:
        return OF_REPAIR
    needed = IDENTITY | {"original_seed": int, "manipulation_seed": int}
    needed |= {"original": str} if "identified" in metrics else {}
    for key, kind in needed.items():
        if not isinstance(metrics.get(key), kind) or isinstance(metrics.get(key), bool):
            return f"foreign or damaged: no {key}" if key not in metrics else f"damaged: {key}={metrics[key]!r}"
    for key in ("identified", *MEASURED):
        value = metrics.get(key, 0)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1 + 1e-9:
            return f"damaged: {key}={value!r} is not between 0 and 1"
    seconds = metrics.get("seconds", 0)
    if not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        return f"damaged: seconds={seconds!r}"
    said, lies = (metrics["setting"], metrics["method"], metrics["hash"]), (setting, method, run.rpartition("-")[2])
    return f"foreign: it says {'/'.join(said)}" if said != lies else None


def _settings(config: Any, processes: Any = None) -> Settings | None:
    """Return a run's settings from a resolved config; None if the config is incomplete.

    Args:
        config: The resolved config.
        processes: Number of processes if each had its own batch statistics; None for one, or if they share statistics.
    """
    if not isinstance(config, dict):
        return None
    shared = {key: config.get(key) for key in ("setting", "data", "network", "procedure", "trainer")}
    read = _parse(json.dumps(shared, default=str))
    model = config.get("model")
    own = str(model.get("class_path", "cmu_lightning.")) if isinstance(model, dict) else "cmu_lightning."
    if read is not None:
        parts = {"trainer.processes": str(processes or 1)}
        read = read._replace(steps=read.steps | parts, unlearn_steps=read.unlearn_steps | parts)
    return read if read is None or own.startswith("cmu_lightning.") else read._replace(model=own)


@cache
def _parse(shared: str) -> Settings | None:
    """Return the settings of a config without its `model`, as JSON; most runs of a study share it."""
    config = json.loads(shared) | {"model": {}}
    deletion = frozenset({"identified", "seed"})
    try:
        taken = [identity(config, uses, deletion, None) for uses in ("steps", "unlearn_steps")]
        for own in taken:
            # Where files are; the fingerprint and `content` tell which they are.
            own_data = own["data"]["init_args"]
            for part in (own["data"], own_data.get("discovery"), own_data.get("manipulation")):
                ((part or {}).get("init_args") or {}).pop("path", None)
            del own["original"]
    except (TypeError, KeyError, AttributeError):
        return None
    steps, unlearn_steps = taken
    unlearn_steps["procedure"]["unlearn_steps"] = unlearn_steps["procedure"].pop("steps")
    return Settings(flat(steps), flat(unlearn_steps))


def flat(nested: dict[str, Any]) -> dict[str, str]:
    """Return nested settings as text by dotted names, sorted, without the seeds that every run has.

    Args:
        nested: Settings; `class_path` and `init_args` are no part of a name, as on the command line.
    """
    found = {name: str(value).removeprefix("cmu_lightning.") for name, value in _dotted(nested).items()}
    return {name: found[name] for name in sorted(found) if name not in SEEDS_IN_CONFIG}


def _dotted(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in nested.items():
        name = prefix if key in ("init_args", "class_path") else f"{prefix}.{key}".removeprefix(".")
        if isinstance(value, dict):
            values |= _dotted(value, name)
        else:
            values[name] = value
    return values


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not isinstance(value, dict | list)}


def _as_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Return runs as a table that has all of `COLUMNS`, measured or not."""
    made = pd.DataFrame(records)
    objects = ["metrics", "config", "settings"]
    others = [name for name in made.columns if name not in (*COLUMNS, *objects)]
    table = _whole_numbers(made.reindex(columns=[*COLUMNS, *others]), records)
    for name in objects:
        table[name] = pd.Series([record[name] for record in records], dtype=object)
    # Binary fractions add noise to decimal ones: 0.1 of 30 samples is 3 / 30.
    table["identified"] = table["identified"].astype(float).round(6)
    return table


def _whole_numbers(table: pd.DataFrame, records: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a table whose columns of integers stay integers where some are missing."""
    for name in table.columns:
        kinds = {type(record.get(name)) for record in records} - {type(None)}
        if kinds == {int}:
            table[name] = table[name].astype("Int64")
    return table


def _is_histogram(log10_edges: list[float], counts: list[int], left_alone: int, selected: int) -> bool:
    return (
        len(log10_edges) == len(counts) + 1 > 1
        and all(isfinite(edge) and abs(edge) < 300 for edge in log10_edges)
        and all(a < b for a, b in pairwise(log10_edges))
        and all(isinstance(count, int) and count >= 0 for count in [*counts, left_alone, selected])
    )
