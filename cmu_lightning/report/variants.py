"""Which runs belong together: those of the same data and manipulation whose originals were made in the same way.

A *variant* is a setting in one of the ways in which it was run.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pandas as pd

from cmu_lightning.report.aggregate import DISCOVERY, OF_PAPER, Comparison
from cmu_lightning.report.load import flat, rows_of, settings_of

SAID_BY = {
    "dataset": "data",
    "model": "network",
    "manipulation": "data.manipulation",
    "manipulated": "data.manipulation",
}
"""Keys of a `metrics.json`, by the names of the more precise settings in the config."""

SHARED = ("dataset", "model", "manipulation", "manipulated", "fingerprint")

Key = tuple[tuple[str, Any], ...]


def compare(runs: pd.DataFrame, rule: str) -> list[Comparison]:
    """Return one comparison per variant, sorted by name; different data and different originals are never merged.

    Args:
        runs: The table of `load.Runs`.
        rule: The rule by which hyperparameters are chosen.
    """
    shared = _shared(runs)
    keys = [(setting, _key(about)) for setting, about in zip(runs["setting"], shared, strict=True)]
    hashes = [(run.original_seed, run.manipulation_seed, _original_hash(run)) for run in rows_of(runs)]
    groups = defaultdict(list)
    for position, key in enumerate(keys):
        groups[key].append(position)
    by_setting: dict[str, list[list[int]]] = defaultdict(list)
    for (setting, _), positions in groups.items():
        by_setting[setting] += _apart(hashes, positions)
    made = []
    for setting, members in by_setting.items():
        abouts = [dict(shared[positions[0]]) for positions in members]
        alike = Counter(map(_key, abouts))
        # Groups without any other difference are named by the hash of their original.
        for about, positions in zip(abouts, members, strict=True):
            if alike[_key(about)] > 1:
                about["original"] = ", ".join([hashes[positions[0]][2], *filter(None, [about.get("original")])])
        names = labels(setting, abouts, [*map(len, members)])
        made += [
            _comparison(name, about, runs.iloc[positions], rule)
            for name, about, positions in zip(names, abouts, members, strict=True)
        ]
    return sorted(made, key=lambda each: each.name)


def _comparison(name: str, about: dict[str, Any], group: pd.DataFrame, rule: str) -> Comparison:
    is_original = group["identified"].isna()
    runs = group[~is_original].copy()
    ways = _ways(group)
    runs["label"] = pd.Series([ways[folder] for folder in runs["folder"]], index=runs.index, dtype=object)
    takes = [_finds_its_own_fraction(run) for run in rows_of(runs)]
    runs["takes_number"] = pd.Series(takes, index=runs.index, dtype=bool)
    # What such a discovery finds differs between seeds: all seeds get the mean.
    means = {label: round(fmean(own), 6) for label, own in runs.groupby("label")["identified"]}
    runs["at"] = runs["identified"].where(~runs["takes_number"], runs["label"].map(means).astype(float))
    return Comparison(name, about, group[is_original], runs, rule)


def _finds_its_own_fraction(run: Any) -> bool:
    """Return whether a discovery decides by itself, or by the size of S_f, which fraction of S_m it finds."""
    own = settings_of(run)
    return any(own.get(f"{DISCOVERY}.{name}", "None") != "None" for name in ("count", "fraction", "known_fraction"))


def _shared(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return for each run how its original was made and on what."""
    originals = {run.hash: run for run in rows_of(runs) if pd.isna(run.identified)}
    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    about = []
    for run in rows_of(runs):
        original = originals.get(_original_hash(run))
        own = {name: run.metrics[name] for name in SHARED}
        key = (original.folder if original is not None else run.folder, *own.values())
        if key not in known:
            known[key] = own | _made(run if original is None else original, original)
        about.append(known[key])
    return about


def _made(source: Any, original: Any) -> dict[str, Any]:
    """Return how an original was made, as far as a run's own config or the original's shows it."""
    made = {"config": source.folder} if source.settings is None else dict(source.settings.steps)
    made = {key: value for key, value in made.items() if not key.startswith(DISCOVERY)}
    # If S_m is drawn before the validation split, chance decides how much of the requested S_m is in S_tr.
    size = made.get("data.manipulation.size")
    if made.get("data.val_labels") == "given" and str(size).isdecimal():
        made = {"manipulated": int(str(size))} | made
    if original is None:
        return made | {"original": "not in the runs folder"}
    return made | flat({"model": original.metrics["hyperparameters"]})


def _original_hash(run: Any) -> str:
    return str(run.hash if pd.isna(run.identified) else run.original)


def _apart(hashes: list[tuple[int, int, str]], positions: list[int]) -> list[list[int]]:
    """Return runs of one configuration in groups, because several originals with the same seeds are ambiguous.

    Args:
        hashes: The seeds of the original and of S_m, and the original's hash, of all runs.
        positions: Which of them to group.
    """
    originals = defaultdict(set)
    for position in positions:
        originals[hashes[position][:2]].add(hashes[position][2])
    parts: dict[str, list[int]] = defaultdict(list)
    for position in positions:
        several = len(originals[hashes[position][:2]]) > 1
        parts[hashes[position][2] if several else ""].append(position)
    return [parts[key] for key in sorted(parts)]


def _ways(group: pd.DataFrame) -> dict[str, str]:
    """Return the method's name within the variant, by folder; one that was run in several ways has several."""
    # Non-numeric hyperparameters make separate methods, between which nothing is tuned.
    named: dict[str, set[str]] = defaultdict(set)
    for run in rows_of(group):
        named[run.method] |= {key for key, value in run.metrics["hyperparameters"].items() if not _is_number(value)}
    ways: dict[str, dict[Key, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in rows_of(group[group["identified"].notna()]):
        tuned = run.metrics["hyperparameters"]
        own: dict[str, Any] = settings_of(run) if run.settings else {"config": run.folder}
        own = own | ({"content": run.metrics["content"]} if "content" in run.metrics else {})
        own |= {key: _kind(value) for key, value in tuned.items() if key in named[run.method]}
        ways[run.method][_key(own)].append(run.folder)
    found: dict[str, str] = {}
    for method, each in ways.items():
        names = labels(method, [dict(key) for key in each], [*map(len, each.values())])
        found |= {folder: name for name, folders in zip(names, each.values(), strict=True) for folder in folders}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    return "a number" if _is_number(value) else str(value)


def _key(values: Mapping[str, Any]) -> Key:
    return tuple(sorted(values.items(), key=lambda item: item[0]))


def labels(name: str, ways: list[dict[str, Any]], runs: list[int]) -> list[str]:
    """Return names for the ways in which something was run.

    The most common way has the plain name; the names of the others add their differences. A way that draws S_f as the
    paper does counts as the most common; of equally common ways, the one with the fewest settings.

    Args:
        name: Name of the method or setting.
        ways: Values by dotted names.
        runs: How many runs there are of each.
    """
    usual = min(zip(ways, runs, strict=True), key=_unusual)[0]
    differing = [[key for key in sorted({*usual, *way}) if usual.get(key) != way.get(key)] for way in ways]
    short = [_note(way, _enough(way, keys)) for way, keys in zip(ways, differing, strict=True)]
    alike = Counter(short)
    notes = [
        note if alike[note] == 1 else _note(way, keys) for note, way, keys in zip(short, ways, differing, strict=True)
    ]
    return [f"{name} ({note})" if note else name for note in notes]


def _unusual(counted: tuple[dict[str, Any], int]) -> tuple[bool, int, int, list[str]]:
    """Return a sort key, smallest for the way that gets the plain name; its last part makes the choice unique."""
    way, runs = counted
    return way.get(DISCOVERY) not in OF_PAPER, -runs, len(way), sorted(map(str, way.items()))


def _enough(way: dict[str, Any], differing: list[str]) -> list[str]:
    """Return the names that distinguish a way: the most precise ones, and present values rather than absent ones."""
    precise = [key for key in differing if not any(other.startswith(SAID_BY.get(key, "-")) for other in differing)]
    return [key for key in precise if way.get(key, "None") != "None"] or precise


def _note(way: dict[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key}={way.get(key)}" for key in keys)
