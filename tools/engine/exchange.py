"""The one exchange of a training step beside the gradients: counts of the losses, and flags of each process."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from backbones.common.processes import over_mean
from backbones.errors import UserError
from tools.engine.batches import Batch, Losses
from tools.processes import distributed, stopping


class Exchanged(NamedTuple):
    """Losses and flags of a step after the exchange between the processes.

    Attributes:
        losses: the losses of this process, weighted so that their mean over the processes is the mean over all items.
        flags: on the device, `[3]`, above 0 if any process has a loss that is not finite, received a signal to stop, or
            cannot read its next batch.
    """

    losses: Losses
    flags: Tensor


def exchange(losses: Mapping[str, Tensor], counts: Mapping[str, Tensor], *, failed: bool) -> Exchanged:
    """Exchange counts and flags between the processes, with one all-reduce. Nothing is read on the host.

    Args:
        losses: losses of this process.
        counts: for each loss that is a mean over items of this process, the number of these items.
        failed: whether this process cannot read its next batch.
    """
    total = functools.reduce(torch.add, losses.values()).detach()
    flags = [~total.isfinite(), *(total.new_full((), each) for each in (stopping.is_requested(), failed))]
    own = torch.stack([each.to(total.device, torch.float32) for each in (*counts.values(), *flags)])
    means = distributed.mean(own)
    weights = over_mean(own, means)[: len(counts)]
    changed = {name: losses[name] * weight for name, weight in zip(counts, weights, strict=True)}
    return Exchanged({**losses, **changed}, means[len(counts) :])


class Feed:
    """The batches of one process. With several processes, each batch is read during the step before.

    So the processes learn from the exchange of that step whether all of them have a next batch.
    """

    def __init__(self, loader: Iterable[Batch]) -> None:
        self._batches = iter(loader)
        self._is_ahead = self._any_failed = False
        self._next: Batch | None = None
        self._error: UserError | None = None

    def take(self) -> Batch | None:
        """Return the next batch; None at the end. If one process has a user error, all processes raise it."""
        if not self._is_ahead:
            return distributed.on_all(lambda: next(self._batches, None))
        self._is_ahead = False
        return distributed.on_all(self._found) if self._any_failed else self._next

    def look_ahead(self) -> bool:
        """Read the next batch if there are several processes; return whether this failed."""
        if distributed.world_size() == 1:
            return False
        self._is_ahead = True
        try:
            self._next = next(self._batches, None)
        except UserError as error:
            self._error = error
        return self._error is not None

    def note(self, *, any_failed: bool) -> None:
        """Note whether any process could not read its next batch."""
        self._any_failed = any_failed

    def _found(self) -> Batch | None:
        if self._error is not None:
            raise self._error
        return self._next
