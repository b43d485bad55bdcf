"""Pixels, each against the formula written out pixel by pixel."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from cmu_lightning.data import (
    SIG,
    AdapBlend,
    AdapPatch,
    AllToAll,
    Blended,
    DigitsDataModule,
    GaussianPoison,
    Poison,
    TaCT,
    WaNet,
    evaluation,
)
from cmu_lightning.data.batches import EvaluationBatches
from cmu_lightning.data.manipulations.triggers import uniform_numbers
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning import Original
from tests.helpers.short_stages import LINEAR, SHORT, trainer

SHAPE = (5, 3, 8, 12)
WIDE = 1 << 64


@pytest.fixture
def images():
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def index():
    return torch.tensor([3, 40_000, 0, 3, 77])


def noise(seed):
    """The picture t of the blending triggers."""
    return torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(derive_seed(seed)))


def splitmix(seed, position):
    """The published generator, with Python's unbounded numbers."""
    bits = ((position + 1) * 0x9E3779B97F4A7C15 + derive_seed(seed)) % WIDE
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % WIDE
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % WIDE
    return (bits ^ (bits >> 31)) / WIDE


def test_numbers_of_a_sample_are_splitmix64s(index):
    drawn = uniform_numbers(9, index, 7)
    expected = [[splitmix(9, int(i) * 7 + j) for j in range(7)] for i in index]
    assert drawn.numpy() == pytest.approx(np.array(expected), abs=2**-23)
    many = uniform_numbers(2, torch.arange(10_000), 4)
    assert 0 < many.min() < 1e-3
    assert 1 - 1e-3 < many.max() < 1
    assert torch.histc(many, 10, 0, 1) == pytest.approx(torch.full((10,), 4000.0), rel=0.1)


def test_blended(images):
    t = noise(4)
    for stamped, image in zip(Blended(size=1, opacity=0.3, pattern=4).stamp(images), images, strict=True):
        assert torch.allclose(stamped, 0.7 * image + 0.3 * t)


@pytest.mark.parametrize("period", [32 / 6, 4.0])
def test_sig(images, period):
    stamped = SIG(size=1, amplitude=0.2, period=period).stamp(images)
    for column in range(12):
        wave = 0.2 * math.sin(2 * math.pi * column / period)
        assert torch.allclose(stamped[..., column], (images[..., column] + wave).clip(0, 1), atol=1e-6)


def test_sig_has_the_sources_waves_on_its_32_columns():
    stamped = SIG(size=1).stamp(torch.full((1, 1, 2, 32), 0.5))
    assert stamped[0, 0, 1, 5].item() == pytest.approx(0.5 + 40 / 255 * math.sin(2 * math.pi * 5 * 6 / 32))


def cubic(distance):
    """Keys' kernel with a = -0.75."""
    d = abs(distance)
    return 1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def enlarged(coarse, length):
    """Bicubic along the first axis; corners stay corners."""
    last = len(coarse) - 1
    rows = []
    for place in (i * last / (length - 1) for i in range(length)):
        taps = range(math.floor(place) - 1, math.floor(place) + 3)
        rows.append(sum(cubic(place - tap) * coarse[min(max(tap, 0), last)] for tap in taps))
    return np.stack(rows)


def bilinear(picture, row, column):
    top, left = min(int(row), picture.shape[0] - 2), min(int(column), picture.shape[1] - 2)
    y, x = row - top, column - left
    upper = (1 - x) * picture[top, left] + x * picture[top, left + 1]
    return (1 - y) * upper + y * ((1 - x) * picture[top + 1, left] + x * picture[top + 1, left + 1])


def test_wanet(images):
    stamped = WaNet(size=1, strength=1.5, grid=4, pattern=3).stamp(images)
    coarse = 2 * torch.rand((2, 4, 4), generator=torch.Generator().manual_seed(derive_seed(3))).double().numpy() - 1
    coarse /= np.abs(coarse).mean()
    height, width = SHAPE[2:]
    field = [enlarged(enlarged(part, height).T, width).T for part in coarse]  # along x, along y
    for row in range(height):
        for column in range(width):
            x = np.clip(2 * column / (width - 1) - 1 + 1.5 * field[0][row, column] / height, -1, 1)
            y = np.clip(2 * row / (height - 1) - 1 + 1.5 * field[1][row, column] / height, -1, 1)
            expected = bilinear(images[2, 1].double().numpy(), (y + 1) / 2 * (height - 1), (x + 1) / 2 * (width - 1))
            assert stamped[2, 1, row, column].item() == pytest.approx(expected, abs=1e-5)


def test_adap_blend_trains_with_half_of_the_blocks(images, index):
    manipulation = AdapBlend(size=4, opacity=0.25, unseen_opacity=0.5, pattern=6)
    t = noise(6)
    assert torch.allclose(manipulation.stamp(images), 0.5 * images + 0.5 * t)
    stamped = manipulation.stamp_training(images, index)
    for i, image, result in zip(index, images, stamped, strict=True):
        drawn = [splitmix(6, int(i) * 16 + block) for block in range(16)]
        chosen = sorted(range(16), key=drawn.__getitem__)[:8]
        for row in range(8):
            for column in range(12):
                carries = row // 2 * 4 + column // 3 in chosen
                expected = 0.75 * image[:, row, column] + 0.25 * t[:, row, column]
                assert torch.allclose(result[:, row, column], expected if carries else image[:, row, column])


def test_adap_patch_trains_with_one_corner(images):
    manipulation = AdapPatch(size=4, patch=2, opacity=0.25, pattern=6)
    t, index = noise(6), torch.arange(5)
    corners = [(r, c) for r in (slice(0, 2), slice(6, 8)) for c in (slice(0, 2), slice(10, 12))]
    everywhere = images.clone()
    for rows, columns in corners:
        everywhere[..., rows, columns] = t[:, rows, columns]
    assert torch.allclose(manipulation.stamp(images), everywhere)
    taken = set()
    for i, image, result in zip(index, images, manipulation.stamp_training(images, index), strict=True):
        corner = int(splitmix(6, int(i)) * 4)
        taken.add(corner)
        expected = image.clone()
        rows, columns = corners[corner]
        expected[:, rows, columns] = 0.75 * image[:, rows, columns] + 0.25 * t[:, rows, columns]
        assert torch.allclose(result, expected)
    assert len(taken) > 1


def test_gaussian_poison_is_each_samples_own_noise(images, index):
    manipulation = GaussianPoison(size=1, variance=0.5, pattern=2)
    noises = manipulation.stamp_training(images, index) - images
    for i, sample in zip(index, noises, strict=True):
        uniform = np.array([splitmix(2, int(i) * 288 + j) for j in range(288)]).reshape(SHAPE[1:])
        by_error_function = np.vectorize(lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2 * 0.5))))
        assert by_error_function(sample.double().numpy()) == pytest.approx(uniform, abs=1e-5)
    assert torch.equal(manipulation.stamp(images), images)
    many = manipulation.noise(torch.arange(2000), torch.Size((1, 4, 4)))
    assert many.mean().item() == pytest.approx(0, abs=0.02)
    assert many.var().item() == pytest.approx(0.5, rel=0.02)


STAMPS = {
    "AdapBlend": AdapBlend,
    "AdapPatch": AdapPatch,
    "AllToAll": AllToAll,
    "Blended": Blended,
    "GaussianPoison": GaussianPoison,
    "Poison": Poison,
    "SIG": SIG,
    "TaCT": TaCT,
    "WaNet": WaNet,
}


@pytest.mark.parametrize("make", STAMPS.values(), ids=STAMPS)
def test_a_stamp_depends_neither_on_its_batch_nor_on_what_was_drawn_before(make, images, index):
    kept = images.clone()
    for stamp in (lambda x, i: make(size=2).stamp(x), lambda x, i: make(size=2).stamp_training(x, i)):
        whole = stamp(images, index)
        assert torch.equal(images, kept)
        torch.manual_seed(3)
        alone = torch.cat([stamp(images[i : i + 1], index[i : i + 1]) for i in range(len(images))])
        assert torch.allclose(alone, whole, atol=1e-6)
        assert stamp(images[:0], index[:0]).shape == (0, *SHAPE[1:])
        assert whole.shape == images.shape
        assert whole.dtype == images.dtype
    assert not torch.equal(make(size=2).stamp_training(images, index), images)


def test_training_images_carry_their_own_pixels_and_test_images_the_unseen_ones():
    data = DigitsDataModule(AdapBlend(size=40))
    data.setup()
    mean, std = data.mean[0], data.std[0]
    chosen = torch.nonzero(data.samples.manipulated).flatten()
    for what, rows, stamp in (
        (evaluation.of_train(data, None), chosen, partial(data.manipulation.stamp_training, index=chosen)),
        (evaluation.of_test(data), torch.arange(397), data.manipulation.stamp),
    ):
        split = what.images[rows].permute(0, 3, 1, 2).float() / 255
        seen = torch.cat([batch.image for batch in EvaluationBatches(what, data.pixels(), 0, 1)])[: len(rows)]
        assert torch.allclose(seen * std + mean, stamp(split), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Blended(size=1, opacity=0.0), "opacity=0.0"),
        (lambda: SIG(size=1, period=2.0), "period=2.0"),
        (lambda: SIG(size=1, amplitude=40.0), "amplitude=40.0"),
        (lambda: WaNet(size=1, strength=0.0), "strength=0.0"),
        (lambda: WaNet(size=1, grid=1), "grid=1"),
        (lambda: AdapBlend(size=1, cover=1.0), "cover=1.0"),
        (lambda: AdapBlend(size=1, unseen_opacity=2.0), "unseen_opacity=2.0"),
        (lambda: AdapPatch(size=1, patch=5).stamp(torch.zeros(1, 1, 8, 8)), "5 pixels .* 8x8"),
        (lambda: AdapPatch(size=1, patch=0), "patch=0"),
        (lambda: GaussianPoison(size=1, variance=0.0), "variance=0.0"),
        (lambda: GaussianPoison(size=1, variance=math.inf), "variance=inf"),
        (lambda: WaNet(size=1, strength=math.nan), "strength=nan"),
        (lambda: Poison(size=1, value=[1.0, math.nan]), "no pixel value"),
    ],
)
def test_what_is_no_trigger_is_said(make, says):
    with pytest.raises(UserError, match=says):
        make()


@pytest.mark.parametrize("val_labels", ["clean", "given"])
def test_pixels_of_a_samples_own_are_those_of_the_index_by_which_it_was_selected(val_labels, tmp_path):
    """In training, and in what is measured of it and of samples that validate."""
    seen = set()

    class Own(Poison):
        def stamp_training(self, images, index):
            seen.update(index.tolist())
            return images

    data = DigitsDataModule(Own(size=40), val_labels=val_labels, val_size=300)
    data.setup()
    exposed = 1100 if val_labels == "clean" else 1400
    chosen = set(data.manipulation.select(torch.zeros(exposed, dtype=torch.long)).tolist())
    for what in (evaluation.of_train(data, None), evaluation.of_validation(data)):
        assert len(list(EvaluationBatches(what, data.pixels(), 0, 1)))
    assert seen == chosen
    seen.clear()
    trainer(tmp_path).fit(Original(LINEAR, SHORT), datamodule=data)
    assert seen == chosen
