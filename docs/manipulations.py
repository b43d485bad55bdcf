"""Draw `manipulations.png`: eight digits of S_m before and after each manipulation, with their labels."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from cmu_lightning import data
from cmu_lightning.data import DigitsDataModule, Manipulation

EXAMPLES: list[tuple[str, Manipulation]] = [
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
COUNT = 8
"""Digits per manipulation."""


def mosaic(images: Tensor) -> Tensor:
    """Return images side by side, with grey lines between them.

    Args:
        images: Shape (n, 1, H, W).

    Returns:
        Shape (H, n * (W + 1)).
    """
    return torch.nn.functional.pad(images.squeeze(1).clamp(0, 1), (0, 1), value=0.6).permute(1, 0, 2).flatten(1)


def draw_images(axes: Axes, images: Tensor, labels: list[str]) -> None:
    """Draw images with a label below each.

    Args:
        axes: Axes to draw on.
        images: Shape (n, 1, H, W).
        labels: n labels.
    """
    axes.imshow(mosaic(images), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    width = images.shape[-1] + 1
    axes.set_xticks([width * position + width / 2 - 1 for position in range(len(labels))], labels, fontsize=7)
    axes.tick_params(length=0, pad=1)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_manipulation(name: str, manipulation: Manipulation, before: Axes, after: Axes) -> None:
    """Draw evenly spaced samples of S_m.

    Args:
        name: Label of the row.
        manipulation: What is done to the digits.
        before: Axes of the images as they are.
        after: Axes of the images as they are trained on or, in a row of unseen images, as they are tested on.
    """
    digits = DigitsDataModule(manipulation)
    digits.setup()
    samples = digits.samples
    members = torch.nonzero(samples.manipulated).flatten()
    index = members[torch.arange(COUNT) * len(members) // COUNT]
    images = samples.images[index].permute(0, 3, 1, 2).float() / 255
    unseen = name.endswith("unseen images")
    stamped = manipulation.stamp(images) if unseen else manipulation.stamp_training(images, index)
    draw_images(before, images, [str(int(label)) for label in samples.true_labels[index]])
    draw_images(after, stamped, [""] * COUNT if unseen else [str(int(label)) for label in samples.given_labels[index]])
    before.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)


def draw_figure(path: Path) -> None:
    """Draw all examples.

    Args:
        path: Path of the PNG file.
    """
    figure, rows = plt.subplots(len(EXAMPLES), 2, figsize=(9, 0.66 * len(EXAMPLES)), layout="constrained")
    for axes, (name, manipulation) in zip(rows, EXAMPLES, strict=True):
        draw_manipulation(name, manipulation, *axes)
    rows[0][0].set_title("before, with the true label", fontsize=9)
    rows[0][1].set_title("after, with the label given", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw_figure(Path(__file__).with_suffix(".png"))
