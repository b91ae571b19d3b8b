"""Bounds on rounding and on chance, so that no test is fitted to one CPU or one number of threads.

CPUs and numbers of threads add in different orders. Tests compare exactly where both sides run the same operations on
tensors of the same shapes. Else they compare in double precision with `torch.testing.assert_close`, whose limit of
1e-7 no rounding reaches: `rounding(4608, layers=100, dtype=torch.double)` is 1.2e-11. Where the code itself computes
in single precision or in 16 bits, they use `assert_rounded`.
"""

from __future__ import annotations

import math
from typing import Any

import torch

# Two results differ (2); the worst of a million entries is five standard deviations off (5); convolutions by Winograd's
# transforms round about 1.5 times as much.
SAFETY = 16


def rounding(terms: int, *, layers: int = 1, dtype: torch.dtype = torch.float32) -> float:
    """Return the largest difference to expect between two orders of one computation, relative to its largest value.

    A sum of n terms makes n roundings of random sign, each of at most eps / 2 of the result: together
    sqrt(n) * eps / 2 (Higham, Accuracy and Stability of Numerical Algorithms, section 2.8). The errors of `layers`
    such sums, one after the other, add up.
    """
    return SAFETY * math.sqrt(terms) * layers * torch.finfo(dtype).eps / 2


def assert_rounded(found: Any, expected: Any, *, terms: int, layers: int = 1, dtype: Any = torch.float32) -> None:
    """Refuse tensors, or lists and dicts of them, that differ by more than `rounding` of the largest value."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            assert_rounded(one, other, terms=terms, layers=layers, dtype=dtype)
        return
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    bound = rounding(terms, layers=layers, dtype=dtype) * largest
    torch.testing.assert_close(found, expected, rtol=0, atol=bound, check_dtype=False)


def written(decimals: int) -> float:
    """Return by how much a number in a file differs from the one computed: half a unit of the last decimal."""
    return 0.5 * 10**-decimals


def chance(deviation: float, count: int, *, errors: float = 5) -> float:
    """Return the bound on a mean of `count` draws of that standard deviation: five standard errors (1 in 2 million)."""
    return errors * deviation / math.sqrt(count)


def quantile_chance(deviation: float, count: int, *, tail: float = 0.025, errors: float = 5) -> float:
    """Return the bound on the `tail` quantile of `count` normal draws: five standard errors.

    The standard error of a quantile is sqrt(p (1 - p) / n) / density, and the normal density there is
    exp(-z^2 / 2) / sqrt(2 pi) / deviation, with z = 1.96 for a tail of 0.025.
    """
    z = -math.sqrt(2) * float(torch.special.erfinv(torch.tensor(2 * tail - 1, dtype=torch.double)))
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / deviation
    return errors * math.sqrt(tail * (1 - tail) / count) / density


def assert_same_detections(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, boxes: float, scores: float
) -> None:
    """Refuse `boxes`, `scores` and `labels` of an image that differ by more than these bounds, in any order.

    Each detection has a partner of its own: where scores nearly tie, the order is one CPU's.
    """
    left = list(range(len(expected["scores"])))
    assert len(found["scores"]) == len(left)
    for box, score, label in zip(found["boxes"], found["scores"], found["labels"]):
        gaps = {n: float((expected["boxes"][n] - box).abs().max()) for n in left if expected["labels"][n] == label}
        near = [n for n in gaps if gaps[n] <= boxes and abs(expected["scores"][n] - score) <= scores]
        assert near, f"label {int(label)} with score {float(score)} at {box.tolist()} has no partner"
        left.remove(min(near, key=gaps.__getitem__))
