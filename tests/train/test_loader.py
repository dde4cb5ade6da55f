"""Batches: augmentation, and that they depend on nothing but seed, epoch and step."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from bhvit.data.dataset import open_dataset
from bhvit.errors import UserError
from bhvit.image import Preprocess
from bhvit.train.augment import Normalizer, draw_moves, draw_turns, moved, seed_for, turned
from bhvit.train.distributed import BatchShard
from bhvit.train.loader import Batches
from helpers.shard_files import png, write_shard

CPU = torch.device("cpu")
PREPROCESS = Preprocess(size=(8, 8), crop=1.0)
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))


def batches_of(config, **changes):
    config = config(**changes)
    return Batches(open_dataset(config.data), PREPROCESS, config, CPU)


def same(first, second):
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True))


def shifted(pixels, shift, flip):
    """Pixels after `moved` with draws of their own."""
    count, *size, _ = pixels.shape
    return moved(pixels, torch.arange(count), **draw_moves(shift, flip, size, 1, BatchShard(count)))


def test_normalising_is_the_evaluations():
    images = Normalizer(PREPROCESS, CPU)(PIXELS)
    np.testing.assert_array_equal(images.numpy(), PREPROCESS.normalize(PIXELS.numpy()))


def test_moves_stay_within_their_bounds_and_repeat_the_border():
    assert torch.equal(shifted(PIXELS, 0, False), PIXELS)
    wide = PIXELS.repeat(100, 1, 1, 1)
    seen = set()
    for before, after in zip(wide, shifted(wide, 0.125, False)):
        found = [
            (dy, dx)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if torch.equal(after[1:-1, 1:-1], before[1 + dy : 7 + dy, 1 + dx : 7 + dx])
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 9


def test_half_of_the_images_are_mirrored():
    wide = PIXELS.repeat(100, 1, 1, 1)
    flipped = [torch.equal(a, b.flip(1)) for a, b in zip(shifted(wide, 0, True), wide)]
    kept = [torch.equal(a, b) for a, b in zip(shifted(wide, 0, True), wide)]
    assert all(a != b for a, b in zip(flipped, kept))
    assert 200 < sum(flipped) < 300


def test_turning_by_nothing_changes_nothing(config):
    def after(**changes):
        return turned(PIXELS, **draw_turns(config(flip=False, **changes), (8, 8), 1, BatchShard(len(PIXELS))))

    assert torch.equal(after(shift=0.0), PIXELS)
    assert not torch.equal(after(rotate=20), PIXELS)


@pytest.mark.parametrize("changes", [{}, {"augment": "none"}, {"rotate": 10, "zoom": 0.1}])
def test_an_epoch_can_be_entered_anywhere(config, changes):
    batches = batches_of(config, **changes)
    whole = list(batches.epoch(1))
    assert len(whole) == batches.steps == 5
    assert whole[0][0].shape == (8, 3, 8, 8)
    assert same(whole[3:], batches.epoch(1, 3))
    assert not same(whole, batches.epoch(2))


def test_images_that_do_not_fit_in_memory_give_the_same_batches(config):
    cached, streamed = batches_of(config), batches_of(config, cache_mb=0, workers=0)
    assert cached.pixels is not None
    assert streamed.pixels is None
    assert same(cached.epoch(0), streamed.epoch(0))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_worker_processes_give_the_same_batches(config):
    changes = {"augment": "resized-crop", "cache_mb": 0}
    alone, helped = batches_of(config, **changes, workers=0), batches_of(config, **changes, workers=2)
    first = list(alone.epoch(3))
    assert same(first, helped.epoch(3))
    assert same(first[2:], helped.epoch(3, 2))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_gone_is_named_without_a_traceback(config, images, tmp_path, workers):
    own = shutil.copytree(images, tmp_path / "own")
    batches = batches_of(config, data=str(own), cache_mb=0, workers=workers)
    (own / "train" / "above" / "3.png").unlink()
    with pytest.raises(UserError) as caught:
        list(batches.epoch(0))
    assert str(caught.value) == f"cannot read {own}/train/above/3.png: No such file or directory"


def test_too_few_images_for_a_batch_are_refused(config):
    with pytest.raises(UserError, match="40 training images do not fill a batch of 64"):
        batches_of(config, batch_size=64)


def test_seeds_differ():
    assert len({seed_for(a, b, c) for a in range(5) for b in range(5) for c in range(5)}) == 125


def test_images_of_a_block_stay_near_each_other_and_each_comes_once(config, tmp_path, monkeypatch):
    monkeypatch.setattr("bhvit.data.webdataset.BLOCK", 8)
    monkeypatch.setattr("bhvit.data.stores.EncodedStore.window", 2)
    for shard in range(2):
        rows = [{"png": png(64 * shard + i), "cls": str(i % 2).encode()} for i in range(64)]
        write_shard(tmp_path / f"train-{shard}.tar", rows)
    settings = config(data=str(tmp_path), batch_size=16, augment="none", flip=False, cache_mb=0, workers=0)
    batches = Batches(open_dataset(tmp_path, "all"), PREPROCESS, settings, CPU)
    seen = []
    for images, _ in batches.epoch(0):
        shades = images[:, 0, 0, 0] * PREPROCESS.std[0] + PREPROCESS.mean[0]
        numbers = (shades * 255).round().long()
        assert len(set((numbers // 8).tolist())) == 2, "a batch of two blocks' images is of two blocks"
        seen += numbers.tolist()
    assert sorted(seen) == list(range(128))
    assert seen != sorted(seen)
    assert same(batches.epoch(1), batches.epoch(1))
    assert not same(batches.epoch(1), batches.epoch(2))
    assert same(list(batches.epoch(1))[3:], batches.epoch(1, 3))
