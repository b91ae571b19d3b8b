"""What nets of other libraries share behind the contract of a backbone."""

from collections.abc import Sequence

from torch import nn


def staged(net: nn.Module, leaves: Sequence[str], cuts: Sequence[int]) -> list[list[nn.Module]]:
    """Group modules into stages: `leaves` in the order of their use, cut behind those numbers of them.

    A parent belongs to a stage that holds all of its leaves, and brings the parameters that hang on itself.
    """
    groups = []
    for start, stop in zip([0, *cuts[:-1]], cuts, strict=True):
        inside, outside = set(leaves[start:stop]), [*leaves[:start], *leaves[stop:]]
        parents = {leaf.rsplit(".", i)[0] for leaf in inside for i in range(1, leaf.count(".") + 1)}
        whole = {p for p in parents if not any(leaf.startswith(f"{p}.") for leaf in outside)}
        groups.append([m for n, m in net.named_modules() if n in inside | whole])
    return groups
