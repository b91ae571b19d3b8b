"""Decodes and encodes the run lengths of Label Studio's brush (the format of the JavaScript library rle-pack)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHANNELS = 4  # the brush stores RGBA pixels; the last channel is the mask
LENGTH = 16  # bits of the length of a run that `encode_brush` writes


class BitReader:
    """Reads whole numbers of any number of bits, the highest bit first.

    Args:
        values: bytes.

    Raises:
        ValueError: a value is no byte.
    """

    def __init__(self, values: Sequence[float]) -> None:
        given = np.array(values)
        if given.ndim != 1 or given.dtype.kind != "i" or (given < 0).any() or (given > 255).any():
            raise ValueError("run lengths are a list of bytes")
        self.bits, self.place = np.unpackbits(given.astype(np.uint8)), 0

    def numbers(self, count: int, bits: int) -> np.ndarray:
        """Return the next `count` numbers of `bits` bits each, `[count]` int64.

        Raises:
            ValueError: the data ends before.
        """
        end = self.place + count * bits
        if end > len(self.bits):
            raise ValueError("run lengths end too early")
        found = self.bits[self.place : end].reshape(count, bits).astype(np.int64)
        self.place = end
        return found @ (1 << np.arange(bits)[::-1])

    def number(self, bits: int) -> int:
        """Return the next number of `bits` bits."""
        return int(self.numbers(1, bits)[0])


def decode_brush(values: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """Return the mask `[H, W]` bool of run lengths for an image of size (height, width).

    The data begins with the number of values (32 bits), the bits of a value less one (5), and four widths less one (4
    bits each). Then come runs: a bit that tells whether the run repeats one value, the index of a width (2 bits), the
    length less one in this width, and one value, or all values of the run.

    Raises:
        ValueError: the data is malformed, or belongs to an image of another size.
    """
    reader = BitReader(values)
    count, word = reader.number(32), reader.number(5) + 1
    if count != size[0] * size[1] * CHANNELS or word > 8:
        raise ValueError(f"{count} values of {word} bits for an image of {size[1]}x{size[0]} pixels")
    widths = (reader.numbers(4, 4) + 1).tolist()
    found, start = np.zeros(count, np.uint8), 0
    while start < count:
        repeats = reader.number(1)
        end = start + 1 + reader.number(widths[reader.number(2)])
        if end > count:
            raise ValueError("a run is longer than the image")
        found[start:end] = reader.number(word) if repeats else reader.numbers(end - start, word)
        start = end
    return found.reshape(*size, CHANNELS)[..., -1] > 0


def encode_brush(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a mask `[H, W]` bool as the brush stores them, a list of bytes."""
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]])) * CHANNELS
    # Cut the runs that are longer than their number of bits allows.
    parts = -(-lengths // 2**LENGTH)
    last = lengths - (parts - 1) * 2**LENGTH
    counts = np.full(parts.sum(), 2**LENGTH)
    counts[np.cumsum(parts) - 1] = last
    values = np.repeat(flat[starts], parts) * np.int64(255)
    # A run: 1 for one repeated value, 3 for the index of its width, the length less one, the value.
    words = (0b111 << (LENGTH + 8)) | (counts - 1) << 8 | values
    head = [*_bits(np.array([flat.size * CHANNELS]), 32), *_bits(np.array([8 - 1]), 5)]
    head += [*_bits(np.full(4, LENGTH - 1), 4)]
    return np.packbits(np.concatenate([head, _bits(words, 3 + LENGTH + 8)]).astype(np.uint8)).tolist()


def _bits(numbers: np.ndarray, count: int) -> np.ndarray:
    """Return the lowest `count` bits of numbers `[N]`, highest first, as `[N * count]`."""
    return (numbers[:, None] >> np.arange(count)[::-1] & 1).ravel()
