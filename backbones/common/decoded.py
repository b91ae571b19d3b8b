"""Keeps decoded images in the files of a folder, so that later epochs need not decode them again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

GIB = 2**30
PAGE = 4096  # bytes
HEADER = 128  # bytes of an .npy file before the values


@dataclass(frozen=True)
class DecodedImages:
    """Decoded arrays by key, in files that all processes of a machine share.

    An array is read from its file by memory mapping: a crop reads the pages of its rows alone. Arrays that would exceed
    the limit are decoded each time, as are arrays that the disk refuses.

    Attributes:
        folder: the folder, which `create` creates.
        limit: largest size of all files in bytes.
    """

    folder: Path
    limit: int

    def create(self) -> None:
        """Create the folder. All processes may call this; without the folder, arrays are decoded each time."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # other users cannot read the images
        self._reserved.touch()

    def get(self, key: str, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of a key from its file, or the result of `decode`, which is then kept.

        The caller may change the array: neither the file nor later results change.
        """
        file = self.folder / f"{hashlib.blake2b(key.encode(errors='surrogatepass'), digest_size=16).hexdigest()}.npy"
        with contextlib.suppress(OSError, ValueError):  # absent, removed or damaged
            return _mapped(file)
        array = decode()
        if not self._is_full.exists():
            self._keep(file, array)
        return array

    def describe(self) -> str:
        """Return the number and size of the kept arrays, and whether the limit or a full disk left others out."""
        sizes: list[int] = []
        with contextlib.suppress(FileNotFoundError):  # another machine removes the folder, which the machines share
            sizes.extend(file.stat().st_size for file in self.folder.glob("*.npy"))
        text = f"{len(sizes)} decoded arrays kept, {sum(sizes) / GIB:.2f} GiB"
        if not self._is_full.exists():
            return text
        is_limit = self._reserved.stat().st_size * PAGE > self.limit
        reason = f"--cache-gib {self.limit / GIB:.2f}" if is_limit else f"{self.folder} refused more"
        return f"{text}; full, so that the others are decoded each time ({reason})"

    @property
    def _is_full(self) -> Path:
        return self.folder / "full"

    @property
    def _reserved(self) -> Path:
        return self.folder / "reserved"

    def _keep(self, file: Path, array: np.ndarray) -> None:
        """Write an array into its file, unless it exceeds the limit or the disk refuses it."""
        partial = self.folder / f"{secrets.token_hex(8)}.partial"
        try:
            if self._reserve(array.nbytes + HEADER) > self.limit:
                self._is_full.touch()
                return
            with partial.open("xb") as out:
                np.save(out, array)
            partial.replace(file)
        except OSError:  # the disk is full, or the run has ended and removed the folder
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
                self._is_full.touch()

    def _reserve(self, size: int) -> int:
        """Reserve bytes, in whole pages, and return how many are reserved with them.

        A file holds a byte for each reserved page. The system appends whole, so that processes need no lock.
        """
        descriptor = os.open(self._reserved, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, bytes(-(-size // PAGE)))
            return os.lseek(descriptor, 0, os.SEEK_CUR) * PAGE
        finally:
            os.close(descriptor)


def _mapped(file: Path) -> np.ndarray:
    """Map an .npy file into memory, so that changes stay in memory. `np.load` takes six times as long.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    with open(file, "rb", buffering=0) as opened:
        dtype, shape, order = _layout(opened.read(HEADER))
        content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    return np.frombuffer(content, dtype, offset=HEADER).reshape(shape, order=order)


@lru_cache(maxsize=1 << 14)  # data sets such as ImageNet have thousands of sizes
def _layout(header: bytes) -> tuple[np.dtype, tuple[int, ...], Literal["C", "F"]]:
    """Return type, shape and order of the array of an .npy file. Images of one size have the same header."""
    content = io.BytesIO(header)
    np.lib.format.read_magic(content)
    shape, columns_first, dtype = np.lib.format.read_array_header_1_0(content)
    return dtype, shape, "F" if columns_first else "C"


def decoded(cache: DecodedImages | None, decode: Callable[[], np.ndarray], *key: object) -> np.ndarray:
    """Return an array from the cache, which keeps it; without a cache, the result of `decode`.

    Args:
        key: what tells the array from all others; only a cache writes it as text.
    """
    return decode() if cache is None else cache.get("|".join(map(str, key)), decode)
