"""Draw `figures/pure_clusters.png`: what PURE's probes see of the samples of S_f's classes.

    python docs/clusters.py

Trains the originals of the poisoned and of the confused digits, seed 0, with a tenth of S_m known, and shows the
leave-one-out score of every sample with the two Gaussians that are fitted to the scores. 2 minutes on a CPU.
"""

import tempfile
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cmu_lightning.cli.fit import main as fit
from cmu_lightning.data.discoveries.detectors import Inspection
from cmu_lightning.data.discoveries.positive_unlabelled import (
    PENALTY,
    anchored_mixture,
    leave_one_out_scores,
    members_by_class,
    standardised,
    suspect,
)
from cmu_lightning.experiment.restore import restore_data, restore_network

HERE = Path(__file__).parent
SETTINGS = {
    "poison_digits.yaml": "trigger, 4 of 36 known",
    "confusion_digits.yaml": "two confused classes, 12 of 122 known",
}
GROUPS = {"clean": "#7a8ca5", "hidden S_m": "#d1495b", "S_f": "#e08e00"}


def scores_of(setting: str, folder: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the score and the group of each sample, and the density of the two Gaussians.

    Args:
        setting: Config of a setting.
        folder: Folder of the runs.
    """
    options = ["--data.identified", "0.1", "--seed_everything", "0", "--threads", "1", "--runs_dir", folder]
    if fit(["fit", "--config", setting, "--config", "unlearn/keep.yaml", *options]):
        raise SystemExit(f"{setting}: the run failed")
    (run,) = Path(folder).glob(f"{Path(setting).stem}/Keep/*")
    data = restore_data(run)
    seen = Inspection(restore_network(run), data.samples, data.pixels())
    known, manipulated = data.samples.deleted.cpu(), data.samples.manipulated.cpu()
    rows = torch.nonzero(torch.isin(seen.labels, seen.labels[known])).flatten()
    shown, labels, known, manipulated = seen.look(rows), seen.labels[rows], known[rows], manipulated[rows]

    # The last round of the probe that learns a regression in each class.
    q, scores = suspect([shown], labels, known).probability, torch.zeros(len(rows), dtype=torch.double)
    for own in members_by_class(labels):
        penalty = PENALTY / int(known[own].sum())
        scores[own] = leave_one_out_scores(standardised(shown.activations[own]), q[own], penalty)
    groups = np.where(known, "S_f", np.where(manipulated, "hidden S_m", "clean"))
    mixture = anchored_mixture(scores[~known], scores[known])
    return pd.DataFrame({"score": scores, "group": groups}), density(scores[~known], mixture.posterior)


def density(scores: Tensor, posterior: Tensor) -> pd.DataFrame:
    """Return the two weighted Gaussians of a mixture on a grid.

    Args:
        scores: Of the samples outside S_f, shape (n,).
        posterior: Their probabilities of the upper one, shape (n,).
    """
    upper, lower = ((weight * scores).sum() / weight.sum() for weight in (posterior, 1 - posterior))
    within = posterior * (scores - upper).square() + (1 - posterior) * (scores - lower).square()
    spread = within.mean().sqrt()
    grid = torch.linspace(float(scores.min()), float(scores.max()), 200, dtype=torch.double)
    parts = []
    for name, mean, share in (("clean", lower, (1 - posterior).mean()), ("hidden S_m", upper, posterior.mean())):
        height = share / spread * torch.exp(-0.5 * ((grid - mean) / spread).square()) / (2 * torch.pi) ** 0.5
        parts.append(pd.DataFrame({"score": grid, "density": height, "group": name}))
    return pd.concat(parts)


def panel(scores: pd.DataFrame, curves: pd.DataFrame, title: str) -> alt.LayerChart:
    """Draw one setting.

    Args:
        scores: Score and group of each sample.
        curves: Density of the Gaussians.
        title: Title of the panel.
    """
    colour = alt.Color("group:N", scale=alt.Scale(domain=list(GROUPS), range=list(GROUPS.values())), title=None)
    step = (scores.score.max() - scores.score.min()) / 45
    outside = scores[scores.group != "S_f"]
    scaled = curves.assign(count=curves.density * len(outside) * step)
    axis = alt.Axis(values=[-1, -0.5, 0, 0.5, 1], format=".1f", grid=False)
    bars = (
        alt.Chart(outside, title=title)
        .mark_bar(opacity=0.65)
        .encode(
            x=alt.X("score:Q", bin=alt.Bin(step=step), title="leave-one-out score", axis=axis),
            y=alt.Y("count():Q", stack=None, title="samples"),
            color=colour,
        )
    )
    lines = (
        alt.Chart(scaled[scaled["count"] > 0.05])
        .mark_line(strokeWidth=2)
        .encode(x="score:Q", y=alt.Y("count:Q", title="samples"), color=colour)
    )
    ticks = (
        alt.Chart(scores[scores.group == "S_f"])
        .mark_tick(thickness=3, size=22, yOffset=-11, opacity=1)
        .encode(x="score:Q", y=alt.value(250), color=colour)
    )
    return alt.layer(bars, lines, ticks).properties(width=330, height=250)


def main() -> None:
    """Train, look and draw."""
    with tempfile.TemporaryDirectory() as folder:
        panels = [panel(*scores_of(setting, folder), title) for setting, title in SETTINGS.items()]
    chart = alt.hconcat(*panels).configure_view(stroke=None)
    chart.save(HERE / "figures/pure_clusters.png", scale_factor=2)


if __name__ == "__main__":
    main()
