"""Decoded arrays that are kept in files: the same values, a strict limit, and files that are damaged or gone."""

from __future__ import annotations

import errno
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from backbones.common.decoded import GIB, DecodedImages, decoded

SIDE = 37
BYTES = SIDE * SIDE * 3
ON_DISK = 2 * 4096  # bytes of whole pages that an array takes with the header of its file


@pytest.fixture
def cache(tmp_path: Path) -> DecodedImages:
    return created(tmp_path / "cache", GIB)


def created(folder: Path, limit: int) -> DecodedImages:
    cache = DecodedImages(folder, limit)
    cache.create()
    return cache


class Decoder:
    """Counts how often it decodes."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.calls = array, 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return self.array.copy(order="K")


def image(number: int) -> Decoder:
    return Decoder(np.full((SIDE, SIDE, 3), number, np.uint8))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(BYTES).reshape(SIDE, SIDE, 3).astype(np.uint8),
        np.linspace(-1, 1, 60, dtype=np.float32).reshape(3, 4, 5),
        np.asfortranarray(np.arange(20, dtype=np.uint8).reshape(4, 5)),
    ],
    ids=["bytes", "floats", "columns first"],
)
def test_an_array_is_decoded_once_and_stays_the_same(cache: DecodedImages, array: np.ndarray):
    decode = Decoder(array)
    for _ in range(3):
        found = cache.get("a.jpg|1", decode)
        assert (found.dtype, type(found)) == (array.dtype, np.ndarray)
        np.testing.assert_array_equal(found, array)
        found[...] = 0  # the caller's own
    # Another process, such as a worker that was started anew, finds it too.
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cache)).get("a.jpg|1", decode), array)
    assert decode.calls == 1
    assert decoded(None, decode, "a.jpg", 1) is not None and decode.calls == 2


def test_keys_are_kept_apart_whatever_their_characters(cache: DecodedImages):
    # The third is a file name that is not UTF-8, the fourth one of a JSON file that no file can have.
    keys = ["a/b.jpg", "a_b.jpg", "\udcff.jpg", "\ud800.jpg", "x" * 5000]
    for number, key in enumerate(keys):
        cache.get(key, image(number))
    assert [int(cache.get(key, image(99))[0, 0, 0]) for key in keys] == [0, 1, 2, 3, 4]


def test_no_more_bytes_are_kept_than_the_limit(tmp_path: Path):
    cache, decoders = created(tmp_path, 3 * ON_DISK - 1), [image(number) for number in range(4)]
    for _ in range(2):
        for number, decode in enumerate(decoders):
            assert (cache.get(str(number), decode) == number).all()
    assert [decode.calls for decode in decoders] == [1, 1, 2, 2]
    assert len(list(tmp_path.glob("*.npy"))) == 2
    assert cache.describe().startswith(
        "2 decoded arrays kept, 0.00 GiB; full, so that the others are decoded each time (--cache-gib"
    )


def test_a_full_disk_is_told_and_leaves_no_half_file(cache: DecodedImages, monkeypatch: pytest.MonkeyPatch):
    def refuse(file: BinaryIO, array: np.ndarray) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    cache.get("a", image(0))
    monkeypatch.setattr(np, "save", refuse)
    assert (cache.get("b", image(1)) == 1).all()
    assert not list(cache.folder.glob("*.partial"))
    assert cache.describe().startswith("1 decoded arrays kept")
    assert cache.describe().endswith(f"({cache.folder} refused more)")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def test_other_users_cannot_read_what_is_kept(cache: DecodedImages):
    assert cache.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
def test_a_damaged_or_missing_file_is_decoded_again(cache: DecodedImages, damage: Callable[[Path], object]):
    decode = image(7)
    cache.get("a", decode)
    damage(next(cache.folder.glob("*.npy")))
    assert (cache.get("a", decode) == 7).all() and decode.calls == 2
    assert (cache.get("a", decode) == 7).all() and decode.calls == 2
    assert "full" not in cache.describe()


def test_without_its_folder_a_cache_decodes(cache: DecodedImages):
    """As the last workers do when the run has ended."""
    decode = image(7)
    cache.get("a", decode)
    shutil.rmtree(cache.folder)
    assert (cache.get("a", decode) == 7).all() and decode.calls == 2
    assert not cache.folder.exists()
