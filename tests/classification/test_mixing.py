"""Mixup and CutMix: the mixture by hand, soft labels, determinism, and refused batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones.errors import UserError
from classification.mixing import Mixing


def batch(*, shift: int = 0, size: int = 4) -> list[tuple[Tensor, dict[str, int]]]:
    """Images of one colour each (10, 20, ...), of class 0, 1, ..."""
    return [
        (torch.full((3, 8, 8), 10 * (n + 1) + shift, dtype=torch.uint8), {"label": n, "index": n + 5})
        for n in range(size)
    ]


def test_mixup_is_the_mixture_that_its_labels_say():
    images, targets = Mixing(mixup=1.0, cutmix=0.0, num_classes=6, seed=1)(batch())
    label = targets["label"]
    assert (images.dtype, images.shape, label.shape) == (torch.uint8, (4, 3, 8, 8), (4, 6))
    torch.testing.assert_close(label.sum(1), torch.ones(4))
    share = label[0, 0].item()
    assert 0.02 < share < 0.98
    assert label[0, 3].item() == pytest.approx(1 - share)  # its partner is the last image
    assert targets["index"].tolist() == [5, 6, 7, 8]
    colours = torch.tensor([10.0, 20, 30, 40])
    expected = colours * share + colours.flip(0) * (1 - share)
    assert (images.float() - expected[:, None, None, None]).abs().max() <= 0.5  # rounded to bytes


def test_cutmix_pastes_a_box_of_the_share_that_its_labels_say():
    images, targets = Mixing(mixup=0.0, cutmix=1.0, num_classes=4, seed=3)(batch())
    share = targets["label"][1, 1].item()
    own, foreign = (images[1, 0] == 20).float().mean().item(), (images[1, 0] == 30).float().mean().item()
    assert own + foreign == 1
    assert own == pytest.approx(share)
    assert 0 < foreign < 1


def test_the_draw_is_a_function_of_seed_and_batch():
    mixing = Mixing(mixup=0.8, cutmix=1.0, num_classes=4, seed=0)
    first, labels = mixing(batch())
    np.random.rand(3)
    mixing(batch(shift=3))
    again, same = mixing(batch())
    assert torch.equal(first, again)
    assert torch.equal(labels["label"], same["label"])
    smooth = Mixing(mixup=0.8, cutmix=0.0, num_classes=4, seed=0)
    shares = {smooth(batch(shift=n))[1]["label"][0, 0].item() for n in range(5)}
    assert len(shares) == 5  # other pixels, as another epoch has them
    assert not torch.equal(Mixing(mixup=0.8, cutmix=1.0, num_classes=4, seed=1)(batch())[1]["label"], same["label"])


def test_the_global_generator_is_left_alone():
    np.random.seed(7)
    expected = np.random.rand(4)
    np.random.seed(7)
    Mixing(mixup=0.8, cutmix=1.0, num_classes=4, seed=0)(batch())
    assert np.array_equal(np.random.rand(4), expected)


def test_what_cannot_be_mixed_is_refused():
    mixing = Mixing(mixup=0.8, cutmix=0.0, num_classes=4, seed=0)
    with pytest.raises(
        UserError, match=r"--batch-size: mixup and CutMix need an even number of images in each process, not 3"
    ):
        mixing(batch(size=3))
    with pytest.raises(
        UserError, match=r"--mixup/--cutmix: work only on uint8 images, not on floating-point arrays; set both to 0"
    ):
        mixing([(image.float(), target) for image, target in batch()])
