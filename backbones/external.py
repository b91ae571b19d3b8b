"""Helpers for backbones from other libraries."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def staged(net: nn.Module, leaves: Sequence[str], cuts: Sequence[int]) -> list[list[nn.Module]]:
    """Group the modules of a network into stages. `cuts` says where each stage ends.

    Args:
        leaves: names of the modules without children, in the order of their use.
        cuts: number of leaves up to the end of each stage.

    Returns:
        The modules of each stage. A parent belongs to the stage that contains all of its leaves, because it may have
        parameters of its own.
    """
    groups = []
    for start, stop in zip([0, *cuts[:-1]], cuts, strict=True):
        inside, outside = set(leaves[start:stop]), [*leaves[:start], *leaves[stop:]]
        parents = {leaf.rsplit(".", i)[0] for leaf in inside for i in range(1, leaf.count(".") + 1)}
        whole = {p for p in parents if not any(leaf.startswith(f"{p}.") for leaf in outside)}
        groups.append([m for n, m in net.named_modules() if n in inside | whole])
    return groups
