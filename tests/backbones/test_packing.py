"""Batches that travel from workers in one buffer."""

from __future__ import annotations

import pickle
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones.common import packing
from backbones.common.loading import loader
from backbones.common.packing import PackedBatch
from backbones.errors import UserError


class Objects(Dataset):
    """160 images with six tensors of truth each, as in detection."""

    def __len__(self) -> int:
        return 160

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = torch.full((3, 40 + index % 3, 40), index, dtype=torch.uint8)
        names = ("boxes", "labels", "area", "iscrowd", "image_id", "size")
        return image, {name: torch.tensor([index, number]) for number, name in enumerate(names)}


def lists(items: list[Any]) -> tuple[Any, ...]:
    return tuple(list(part) for part in zip(*items, strict=True))


@pytest.fixture
def few_files() -> Iterator[None]:
    """Let the process open 256 files, as `ulimit -n 256` does."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_a_batch_of_many_small_tensors_needs_few_open_files():
    """1,120 tensors in a batch, from two workers, under a limit of 256."""
    (batch,) = loader(Objects(), workers=2, collate=lists, batch_size=160)
    images, targets = batch
    assert [int(image[0, 0, 0]) for image in images] == list(range(160))
    assert [image.shape[1] for image in images[:4]] == [40, 41, 42, 40]
    assert all(target["size"].tolist() == [index, 5] for index, target in enumerate(targets))


def test_an_unpacked_batch_has_the_values_types_and_strides_of_the_batch():
    last = torch.arange(2 * 3 * 40 * 50, dtype=torch.float32).view(2, 3, 40, 50)
    batch = (
        [last.to(memory_format=torch.channels_last), torch.empty(0, 4), torch.tensor(True), last[:, :, ::2]],
        {"half": torch.ones(3, dtype=torch.bfloat16), "name": "text", "nested": [torch.tensor([1, 2]), None]},
    )
    images, rest = pickle.loads(pickle.dumps(PackedBatch(batch)))
    for found, expected in zip([*images, rest["half"], rest["nested"][0]],
                               [*batch[0], batch[1]["half"], batch[1]["nested"][0]], strict=True):  # fmt: skip
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    assert images[0].is_contiguous(memory_format=torch.channels_last) and not images[0].is_contiguous()
    assert (rest["name"], rest["nested"][1]) == ("text", None)
    # A small tensor that somebody keeps must not keep the images.
    assert rest["half"].untyped_storage().nbytes() == 6


def test_a_batch_that_shared_memory_cannot_hold_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Full:
        f_bavail, f_frsize = 3, 1_000_000

    monkeypatch.setattr(packing, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("os.statvfs", lambda path: Full)
    with pytest.raises(UserError, match=r"a batch takes 4 MB of shared memory, but .* has 3 MB left; lower --workers"):
        PackedBatch([torch.zeros(1_000_000)])
