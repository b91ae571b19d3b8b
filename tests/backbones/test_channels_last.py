"""Pixels as tensors and batches: the same values as contiguous ones, in the memory order of the pixels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backbones.common.channels_last import pad_image, stack_images, to_tensor


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_batch_has_the_values_of_its_images_in_channels_last(channels: int, kind: type[np.generic]):
    images = [np.random.default_rng(seed).uniform(0, 255, (7, 9, channels)).astype(kind) for seed in range(3)]
    batch = stack_images([to_tensor(image) for image in images])
    assert torch.equal(batch, torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()))
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(7, 9), (8, 9), (11, 13)])
def test_a_padded_image_keeps_its_order(size: tuple[int, int]):
    image = to_tensor(np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8))
    padded = pad_image(image, *size)
    assert torch.equal(padded, F.pad(image, (0, size[1] - 9, 0, size[0] - 7)))
    assert padded.permute(1, 2, 0).is_contiguous()


def test_images_in_the_usual_order_keep_it():
    images = list(torch.rand(4, 3, 7, 9))
    batch = stack_images(images)
    assert torch.equal(batch, torch.stack(images)) and batch.is_contiguous()


def test_views_and_arrays_that_may_not_change_are_copied():
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    mirrored = to_tensor(image[:, ::-1])
    assert torch.equal(mirrored, torch.from_numpy(image.copy()).permute(2, 0, 1).flip(-1))
    image.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_tensor(image)[:] = 0
    assert image.any()
