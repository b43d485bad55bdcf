"""Which runs belong together: of the same data, the same manipulation, and originals made in the same way."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cmu_lightning.report.reading.collect import Result
from cmu_lightning.report.reading.configuration import flat

Key = tuple[tuple[str, Any], ...]
SAID_BY = {
    "dataset": "data",
    "model": "network",
    "manipulation": "data.manipulation",
    "manipulated": "data.manipulation",
}
"""What a `metrics.json` says, by what the config says more precisely."""

DISCOVERY, OF_PAPER = "data.discovery", (None, "None", "Uniform")
"""How S_f comes about, and what the paper's draw is called."""

SHARED = ("dataset", "model", "manipulation", "manipulated", "fingerprint")


@dataclass(frozen=True)
class Variant:
    """A setting, in one of the ways in which it was run.

    Args:
        name: The setting's, and what differs from its most usual variant.
        about: Says what all its runs share, by dotted names.
        originals: By their hashes.
        methods: Unlearners' runs by the method's name; a method that was run in several ways is several ones.
    """

    name: str
    about: dict[str, Any]
    originals: dict[str, Result]
    methods: dict[str, list[Result]]

    @property
    def found(self) -> list[str]:
        """How S_f came about, where that is not the paper's uniform draw."""
        runs = [result for results in self.methods.values() for result in results if result.configuration]
        kinds = {run.configuration.of(run.metrics["method"]).get(DISCOVERY) for run in runs if run.configuration}
        return sorted(str(kind) for kind in kinds if kind not in OF_PAPER)

    def original_of(self, result: Result) -> Result | None:
        """What an unlearner started from; None if it is not among the runs."""
        return self.originals.get(result.metrics["original"])


def variants(results: Iterable[Result]) -> list[Variant]:
    """Sort runs into variants; different data and different originals are never merged."""
    results = list(results)
    about = _what_is_shared(results)
    groups: dict[tuple[str, Key], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.metrics["setting"], _key(about[result.folder])].append(result)
    by_setting: dict[str, list[list[Result]]] = defaultdict(list)
    for (setting, _), group in groups.items():
        by_setting[setting] += _apart(group)
    made = []
    for setting, members in sorted(by_setting.items()):
        shared = [dict(about[group[0].folder]) for group in members]
        alike = Counter(map(_key, shared))
        for each, group in zip(shared, members, strict=True):
            if alike[_key(each)] > 1:
                each["original"] = ", ".join([_original_hash(group[0]), *filter(None, [each.get("original")])])
        for name, each, group in zip(labels(setting, shared, [*map(len, members)]), shared, members, strict=True):
            made.append(_variant(name, each, group))
    return sorted(made, key=lambda variant: variant.name)


def _what_is_shared(results: list[Result]) -> dict[str, dict[str, Any]]:
    """For each run's folder, how its original was made and on what."""
    originals = {result.metrics["hash"]: result for result in results if result.is_original}
    about = {}
    for result in results:
        original = originals.get(_original_hash(result))
        source = result if original is None else original
        made = {"config": source.folder} if source.configuration is None else source.configuration.steps
        kept = {} if original is not None else {"original": "not in the runs folder"}
        made = {key: value for key, value in made.items() if not key.startswith(DISCOVERY)}
        tuned = flat({"model": original.metrics["hyperparameters"]}) if original is not None else {}
        size = {"manipulated": int(made["data.manipulation.size"])} if _validates_on_some(made) else {}
        about[result.folder] = {key: result.metrics[key] for key in SHARED} | size | made | tuned | kept
    return about


def _validates_on_some(made: dict[str, Any]) -> bool:
    """Whether some manipulated samples validate, by chance more or fewer: not all of what was asked for is in S_tr."""
    return made.get("data.val_labels") == "given" and str(made.get("data.manipulation.size")).isdecimal()


def _original_hash(result: Result) -> str:
    own: str = result.metrics["hash" if result.is_original else "original"]
    return own


def _apart(group: list[Result]) -> list[list[Result]]:
    """Runs of one configuration and one draw, yet of several originals: nobody can say which belong together."""
    hashes = defaultdict(set)
    for result in group:
        hashes[result.seeds[:2]].add(_original_hash(result))
    parts: dict[str, list[Result]] = defaultdict(list)
    for result in group:
        parts[_original_hash(result) if len(hashes[result.seeds[:2]]) > 1 else ""].append(result)
    return [parts[key] for key in sorted(parts)]


def _variant(name: str, about: dict[str, Any], group: list[Result]) -> Variant:
    by_method: dict[str, dict[Key, list[Result]]] = defaultdict(lambda: defaultdict(list))
    named: dict[str, set[str]] = defaultdict(set)
    for result in group:
        tuned = result.metrics["hyperparameters"].items()
        named[result.metrics["method"]] |= {name for name, value in tuned if not _is_number(value)}
    for result in group:
        if not result.is_original:
            method = result.metrics["method"]
            own = result.configuration.of(method) if result.configuration else {"config": result.folder}
            files = {"content": result.metrics["content"]} if "content" in result.metrics else {}
            by_method[method][_key(own | files | _kinds(result, named[method]))].append(result)
    methods: dict[str, list[Result]] = {}
    for method, ways in by_method.items():
        names = labels(method, [dict(key) for key in ways], [*map(len, ways.values())])
        methods |= dict(zip(names, ways.values(), strict=True))
    originals = {result.metrics["hash"]: result for result in group if result.is_original}
    return Variant(name, about, originals, dict(sorted(methods.items())))


def _kinds(result: Result, named: set[str]) -> dict[str, str]:
    """Hyperparameters that are no numbers: they make another method of it, among which nothing is to be tuned.

    Args:
        result: A method's run.
        named: Those that are no number in any of its runs.
    """
    tuned = result.metrics["hyperparameters"]
    return {name: "a number" if _is_number(value) else str(value) for name, value in tuned.items() if name in named}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(values: Mapping[str, Any]) -> Key:
    return tuple(sorted(values.items()))


def labels(name: str, ways: list[dict[str, Any]], runs: list[int]) -> list[str]:
    """Names for the ways in which something was run: the most usual one has it alone, others add what differs there.

    One that finds S_f in the paper's way is more usual than any other; of equal ones the one that says least.

    Args:
        name: Name of what was run.
        ways: Values by dotted names.
        runs: How many there are of each.
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
    """Least for what gets the plain name; the last part lets all variants agree."""
    way, runs = counted
    return way.get(DISCOVERY) not in OF_PAPER, -runs, len(way), sorted(map(str, way.items()))


def _enough(way: dict[str, Any], differing: list[str]) -> list[str]:
    """Of what differs, what says it: the most precise, and what is there rather than what is not."""
    told = [key for key in differing if not any(other.startswith(SAID_BY.get(key, "-")) for other in differing)]
    return [key for key in told if key in way] or told


def _note(way: dict[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key}={way.get(key)}" for key in keys)
