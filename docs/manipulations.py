"""Draws `manipulations.png`: eight digits of S_m before and after each manipulation, with their labels."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from cmu_lightning import data
from cmu_lightning.data import DigitsDataModule, Manipulation

DRAWN: list[tuple[str, Manipulation]] = [
    ("Poison", data.Poison(size=36)),
    ("AllToAll", data.AllToAll(size=36)),
    ("TaCT", data.TaCT(size=36)),
    ("Blended", data.Blended(size=36)),
    ("SIG", data.SIG(size=36)),
    ("SIG, clean_label", data.SIG(size=36, clean_label=True)),
    ("WaNet", data.WaNet(size=36)),
    ("AdapBlend", data.AdapBlend(size=36)),
    ("  on unseen images", data.AdapBlend(size=36)),
    ("AdapPatch", data.AdapPatch(size=36)),
    ("  on unseen images", data.AdapPatch(size=36)),
    ("GaussianPoison", data.GaussianPoison(size=36)),
    ("InterclassConfusion", data.InterclassConfusion((3, 5), size=36)),
    ("OneWayConfusion", data.OneWayConfusion(size=36)),
    ("AsymmetricNoise", data.AsymmetricNoise(size=36)),
    ("SymmetricNoise", data.SymmetricNoise(size=36)),
    ("RandomSwap", data.RandomSwap(size=36)),
]
SHOWN = 8


def mosaic(images: Tensor) -> Tensor:
    """Images side by side, shape (H, n * (W + 1)), with grey lines between them."""
    return torch.nn.functional.pad(images.squeeze(1).clamp(0, 1), (0, 1), value=0.6).permute(1, 0, 2).flatten(1)


def draw(axes: Axes, images: Tensor, labels: list[str]) -> None:
    axes.imshow(mosaic(images), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    width = images.shape[-1] + 1
    axes.set_xticks([width * place + width / 2 - 1 for place in range(len(labels))], labels, fontsize=7)
    axes.tick_params(length=0, pad=1)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_manipulation(name: str, manipulation: Manipulation, before: Axes, after: Axes) -> None:
    digits = DigitsDataModule(manipulation)
    digits.setup()
    samples = digits.samples
    members = torch.nonzero(samples.manipulated).flatten()
    index = members[torch.arange(SHOWN) * len(members) // SHOWN]
    images = samples.images[index].permute(0, 3, 1, 2).float() / 255
    unseen = name.endswith("unseen images")
    stamped = manipulation.stamp(images) if unseen else manipulation.stamp_training(images, index)
    draw(before, images, [str(int(label)) for label in samples.true_labels[index]])
    draw(after, stamped, [""] * SHOWN if unseen else [str(int(label)) for label in samples.given_labels[index]])
    before.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)


def picture(path: Path) -> None:
    figure, rows = plt.subplots(len(DRAWN), 2, figsize=(9, 0.66 * len(DRAWN)), layout="constrained")
    for axes, (name, manipulation) in zip(rows, DRAWN, strict=True):
        draw_manipulation(name, manipulation, *axes)
    rows[0][0].set_title("before, with the true label", fontsize=9)
    rows[0][1].set_title("after, with the label given", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    picture(Path(__file__).with_suffix(".png"))
