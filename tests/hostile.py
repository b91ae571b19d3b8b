"""Breaks files as hostile or careless people break them.

HOSTILE_SCALE=67 in the environment tries 67 times as many mutants, at random.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SCALE = int(os.environ.get("HOSTILE_SCALE", 1))
ODD = (b"\0", b"\xff", b"-1", b"NaN", b"1e309", b"9" * 40, b"&amp;", b"<a>", b"\n", b" ", b"!!", b"*x", b"../", b"/etc")
MORE_ODD = (
    b"[" * 2000,
    b"null",
    b"{}",
    b"[]",
    b'""',
    b"\\ud800",
    b"true",
    b"1e-320",
    b"\r",
    b'"',
    b",",
    b"\xef\xbb\xbf",
)


def mutated(random: np.random.Generator, content: bytes) -> bytes:
    """Change, cut, double or move a few bytes of a file."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        start, end = sorted(random.integers(0, len(data) + 1, 2).tolist())
        end = min(end, start + int(random.integers(1, 30)))
        part, odd = bytes(data[start:end]), (*ODD, *MORE_ODD)
        kinds = [b"", part * 3, odd[int(random.integers(len(odd)))], part[::-1]]
        data[start:end] = kinds[int(random.integers(len(kinds)))]
    return bytes(data[: int(random.integers(len(data) + 1))] if random.random() < 0.05 else data)


def mutants(path: Path, count: int) -> Iterator[int]:
    """Yield the numbers of `count` mutants of a file, each when it has been written in place of the file.

    The file has its content again at the end. With HOSTILE_SCALE, the mutants are more, and others each time.
    """
    whole, random = path.read_bytes(), np.random.default_rng(0 if SCALE == 1 else None)
    for number in range(count * SCALE):
        path.write_bytes(mutated(random, whole))
        yield number
    path.write_bytes(whole)


def require_one_line(error: Exception, folder: Path) -> None:
    """Require that an error is one line of bounded length that names a file in `folder`."""
    assert "\n" not in str(error) and len(str(error)) < 2000 and str(folder) in str(error), str(error)
