"""Measure how much each selection rule loses when it chooses among all methods and hyperparameters, as `repair` does.

    python -m benchmarks.selection RUNS [RUNS ...] [--by setting|manipulation|discovery]

RUNS are runs folders and files of packed runs; several are tables of their own runs, put together. The runs of one
original and one S_f are a group, whatever their method. The regret of a choice is the best (acc_corr + acc_retain) / 2
of its group minus that of the chosen run (only acc_corr if acc_retain is not measured); a choice counts as worse
than the original if it is more than 0.02 below it. RewoD is left out, because `repair` does not try it.
"""

import argparse
import json
from collections import defaultdict
from statistics import mean

import pandas as pd

import cmu_lightning
from cmu_lightning.selection import balanced_score

MARGIN = 0.02
NEEDED = ("val_acc", "val_acc_matched", "changed", "fit_identified", "fit_retain")


def weighted(utility, matched=0.0):
    """Return the rule utility val_acc + matched val_acc_matched + 1 - fit_identified."""
    return lambda run: utility * run["val_acc"] + matched * run["val_acc_matched"] + 1 - run["fit_identified"]


def rem(power):
    """Return the rule fit_retain^power (1 - max(fit_identified, 0.2))."""
    return lambda run: run["fit_retain"] ** power * (1 - max(run["fit_identified"], 0.2))


def smoothed(run):
    """Return 5 val_acc + 1 - the expected fit of S_f under a uniform prior, which few samples hardly change."""
    return 5 * run["val_acc"] + 1 - (run["fit_identified"] * run["deleted"] + 1) / (run["deleted"] + 2)


def by_classes(run):
    """Return the score with a weight of half the number of classes, 5 for ten."""
    return run["classes"] / 2 * run["val_acc"] + 1 - run["fit_identified"]


RULES = {
    "paper: val + changed": lambda run: run["selection_score"],
    "val_acc": lambda run: run["val_acc"],
    "REM: fit_retain (1 - max(fit_identified, 0.2))": rem(1),
    "REM with fit_retain cubed": rem(3),
    **{f"{weight} val + 1 - fit_identified": weighted(weight) for weight in (3, 4, 5, 7, 10)},
    "5 fit_retain + 1 - fit_identified (no labels)": lambda run: 5 * run["fit_retain"] + 1 - run["fit_identified"],
    "classes / 2 val + 1 - fit_identified": by_classes,
    "3 val + 2 val_matched + 1 - fit_identified": weighted(3, 2),
    "5 val + 1 val_matched + 1 - fit_identified": weighted(5, 1),
    "5 val + 2 val_matched + 1 - fit_identified": weighted(5, 2),
    "balanced, as shipped": balanced_score,
}  # fmt: skip


def quality(run):
    """Return (acc_corr + acc_retain) / 2, or acc_corr if there is no unaffected domain."""
    return mean(run[name] for name in ("acc_corr", "acc_retain") if pd.notna(run[name]))


def groups(table, by):
    """Return the runs of each original and S_f, and the original's own; by what their rows of the table are named."""
    found_by = [name for name in table if name.startswith(("data.discovery", "data.identified"))]
    table["way"] = table[found_by].apply(lambda row: json.dumps({k: v for k, v in row.items() if pd.notna(v)}), axis=1)
    # Of several classes a network has as many outputs.
    table["classes"] = pd.to_numeric(table["network.num_classes"])
    originals = {run["hash"]: run for run in table[table["original"].isna()].to_dict("records")}
    usable = table[table["original"].notna() & (table["method"] != "RewoD")].dropna(subset=list(NEEDED))
    for (original, way), runs in usable.groupby(["original", "way"]):
        if original not in originals or len(runs) < 2:  # nothing to compare with, or to choose from
            continue
        first = runs.iloc[0]
        name = {"setting": first["setting"], "manipulation": first["manipulation"]}.get(by) or described(way)
        yield name, originals[original], runs.to_dict("records")


def described(way):
    """Return the name of a discovery of S_f."""
    values = {name.removeprefix("data.").removeprefix("discovery."): value for name, value in json.loads(way).items()}
    return ", ".join(f"{name}={value}" for name, value in values.items() if value not in ("None", None))


def main():
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--by", choices=("setting", "manipulation", "discovery"), default="setting")
    given = parser.parse_args()
    table = pd.concat([cmu_lightning.results(path) for path in given.runs], ignore_index=True)
    found = list(groups(table.drop_duplicates("hash"), given.by))
    names = sorted({name for name, _, _ in found})
    counts = ", ".join(f"{name} {sum(each == name for each, _, _ in found)}" for name in names)
    sizes = [len(runs) for _, _, runs in found]
    print(f"{len(found)} groups ({counts}) of {min(sizes)} to {max(sizes)} candidates\n")
    print(f"| rule | {' | '.join(names)} | mean | largest | worse than the original |")
    print(f"|---|{'---|' * (len(names) + 3)}")
    for rule, score in RULES.items():
        regrets, worse = defaultdict(list), 0
        for name, original, runs in found:
            chosen = max(runs, key=score)
            regrets[name].append(max(map(quality, runs)) - quality(chosen))
            worse += quality(chosen) < quality(original) - MARGIN
        every = [regret for each in regrets.values() for regret in each]
        cells = [f"{mean(regrets[name]):.3f}" for name in names]
        print(f"| {rule} | {' | '.join(cells)} | {mean(every):.3f} | {max(every):.3f} | {worse} of {len(found)} |")


if __name__ == "__main__":
    main()
