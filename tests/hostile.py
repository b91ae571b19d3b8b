"""Breaks files as hostile or careless people break them."""

from __future__ import annotations

import numpy as np

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
