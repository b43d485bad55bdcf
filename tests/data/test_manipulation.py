import numpy as np
import pytest
import torch

from cmu_lightning.data import InterclassConfusion, Poison
from cmu_lightning.errors import UserError

LABELS = torch.arange(1000) % 10


def test_poison_of_seed_0_is_the_released_codes_draw():
    drawn = Poison(size=500, seed=0).select(torch.zeros(50_000, dtype=torch.long))
    # The first samples that the released code drew, in its order.
    assert {11841, 19602, 45519, 25747, 42642, 31902, 30346, 12363} <= set(drawn.tolist())
    assert sorted(np.random.RandomState(0).choice(50_000, 500, replace=False)) == drawn.tolist()


def test_poison_draws_are_nested_and_depend_on_their_seed_alone():
    small, large = (set(Poison(size=size, seed=3).select(LABELS).tolist()) for size in (10, 40))
    assert small < large
    torch.manual_seed(7)
    assert set(Poison(size=10, seed=3).select(LABELS).tolist()) == small
    assert set(Poison(size=10, seed=4).select(LABELS).tolist()) != small


@pytest.mark.parametrize(
    ("position", "rows", "columns"),
    [
        ("bottom-right", (5, 6, 7), (5, 6, 7)),
        ("top-left", (0, 1, 2), (0, 1, 2)),
        ("top-right", (0, 1, 2), (5, 6, 7)),
    ],
)
def test_trigger_is_exact(position, rows, columns):
    images = torch.rand(2, 3, 8, 8)
    kept = images.clone()
    stamped = Poison(size=1, position=position, value=[1.0, 0.5, 0.25]).stamp(images)
    for row in range(8):
        for column in range(8):
            expected = kept[:, :, row, column]
            if row in rows and column in columns:
                expected = torch.tensor([1.0, 0.5, 0.25]).expand(2, 3)
            assert torch.equal(stamped[:, :, row, column], expected)
    assert torch.equal(images, kept)


def test_poison_affects_every_stamped_image_and_wants_its_target():
    poison = Poison(fraction=0.1, target=4)
    assert poison.affected(LABELS).all()
    assert poison.unaffected(LABELS).all()
    assert (poison.target_labels(LABELS) == 4).all()
    assert (poison.relabel(LABELS) == 4).all()
    assert len(poison.select(LABELS)) == 100


@pytest.mark.parametrize("pick", ["random", "first"])
def test_confusion_swaps_halves_of_both_classes(pick):
    confusion = InterclassConfusion((3, 5), size=60, pick=pick, seed=1)
    chosen = confusion.select(LABELS)
    assert torch.bincount(LABELS[chosen]).tolist() == [0, 0, 0, 30, 0, 30]
    assert torch.equal(confusion.relabel(LABELS[chosen]), torch.where(LABELS[chosen] == 3, 5, 3))
    first = torch.tensor([i for i in range(300) if i % 10 in (3, 5)])
    assert torch.equal(chosen, first) == (pick == "first")
    assert torch.equal(confusion.affected(LABELS), (LABELS == 3) | (LABELS == 5))
    assert torch.equal(confusion.unaffected(LABELS), ~confusion.affected(LABELS))
    assert confusion.target_labels(LABELS) is None
    assert torch.equal(confusion.stamp(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Poison(), "either size or fraction"),
        (lambda: Poison(size=3, fraction=0.1), "either size or fraction"),
        (lambda: Poison(size=0), "size=0"),
        (lambda: Poison(fraction=1.5), "fraction=1.5"),
        (lambda: Poison(size=1001).select(LABELS), "1001 samples .* has 1000"),
        (lambda: Poison(size=1, patch=9).stamp(torch.zeros(1, 1, 8, 8)), "9 pixels .* 8x8"),
        (lambda: Poison(size=1, value=[1.0, 1.0]).stamp(torch.zeros(1, 3, 8, 8)), "2 numbers for 3 channels"),
        (lambda: InterclassConfusion((3, 3), size=2), "with itself"),
        (lambda: InterclassConfusion((3, 5), size=3), "size=3"),
        (lambda: InterclassConfusion((3, 5), size=202).select(LABELS), "101 samples of class 3 .* has 100"),
        (lambda: InterclassConfusion((3, 12), size=2).select(LABELS), "class 12 .* has 0"),
    ],
)
def test_what_is_impossible_is_said_with_its_numbers(make, says):
    with pytest.raises(UserError, match=says):
        make()
