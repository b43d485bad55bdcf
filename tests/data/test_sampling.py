import pytest
import torch

from cmu_lightning.data import Unknown
from cmu_lightning.data.sampling import EpochSampler, derive_seed, generator, held_out, rank_slice
from cmu_lightning.data.transforms import CropAndFlip
from cmu_lightning.data.validation_split import hold_out


@pytest.mark.parametrize("count", [0, 1, 2, 7, 512])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_slices_of_all_ranks_are_the_whole(count, world_size):
    items = list(range(count + 5))
    parts = [items[rank_slice(slice(3, 3 + count), rank, world_size)] for rank in range(world_size)]
    assert [item for part in parts for item in part] == items[3 : 3 + count]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts[0]) == max(map(len, parts))


def test_an_epoch_holds_every_sample_once_in_another_order_each_time():
    sampler = EpochSampler(10, 4, seed=5)
    assert sampler.steps_per_epoch == 3
    epochs = {}
    for step in range(6):
        epoch, part = sampler.batch(step)
        epochs.setdefault(epoch, []).extend(sampler.order(epoch)[part].tolist())
    assert [sorted(order) for order in epochs.values()] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert EpochSampler(10, 4, seed=5).order(1).tolist() == epochs[1]
    assert EpochSampler(10, 4, seed=6).order(1).tolist() != epochs[1]


def test_generators_are_their_own():
    torch.manual_seed(0)
    before = torch.rand(1, generator=generator(1, 2))
    torch.manual_seed(9)
    assert torch.equal(torch.rand(1, generator=generator(1, 2)), before)
    assert len({derive_seed(a, b) for a in range(10) for b in range(10)}) == 100


def test_held_out_samples_are_spread_over_classes():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    chosen = held_out(labels, 10)
    assert torch.bincount(labels[chosen]).tolist() == [5, 3, 2]
    assert held_out(labels, 0).sum() == 0


def test_every_class_keeps_a_sample_to_train_on():
    """Of twenty classes of one sample; of two samples that would both validate; and where nothing has to change."""
    one_each, rare = torch.arange(20), torch.tensor([0] * 9 + [1] * 2)
    assert held_out(one_each, 2).sum() == 2
    assert hold_out(one_each, 2, None, Unknown(), None).sum() == 0
    assert torch.nonzero(~held_out(torch.tensor([0, 0, 1, 1]), 3)).flatten().tolist() == [3]
    assert torch.nonzero(~hold_out(torch.tensor([0, 0, 1, 1]), 3, None, Unknown(), None)).flatten().tolist() == [0, 3]
    assert torch.equal(hold_out(rare, 5, None, Unknown(), None), held_out(rare, 5))


@pytest.mark.parametrize("flip", [True, False])
def test_crop_and_flip_against_one_image_at_a_time(flip):
    augmentation = CropAndFlip(2, flip)
    images = torch.randint(0, 256, (40, 6, 7, 3), dtype=torch.uint8)
    crops = augmentation.draw(40, generator(0))
    for image, (top, left, mirrored), got in zip(images, crops.tolist(), augmentation(images, crops), strict=True):
        padded = torch.zeros(10, 11, 3, dtype=torch.uint8)
        padded[2:8, 2:9] = image
        expected = padded[top : top + 6, left : left + 7]
        assert torch.equal(got, expected.flip(1) if mirrored else expected)
    assert crops[:, :2].unique().tolist() == [0, 1, 2, 3, 4]
    assert crops[:, 2].unique().tolist() == ([0, 1] if flip else [0])
