"""States of the random generators: a checkpoint holds those of all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from backbones.errors import UserError, counted
from tools.processes import distributed


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return this process's state of the random generators: the CPU's, and the GPU's if a GPU is used."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore the state that `random_state` returned. A generator without a saved state does not change.

    Raises:
        UserError: the state is malformed.
    """
    try:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], device)
    except (RuntimeError, TypeError, KeyError, AttributeError):
        raise UserError(
            "the checkpoint holds a malformed state of the random generators; resume from another checkpoint"
        ) from None


def restore_random(states: Sequence[dict[str, torch.Tensor]], device: torch.device) -> None:
    """Restore the random generators of this process, or say why they cannot go on where they were.

    Args:
        states: states of the random generators, one for each process of the run that wrote the checkpoint.
    """
    if len(states) == distributed.world_size():
        set_random_state(states[distributed.rank()], device)
    elif distributed.is_main():
        print(
            f"the run was started on {counted(len(states), 'process')} and continues on {distributed.world_size()}: "
            "the images of each step and the learning rate are the same, but random samples, the images that "
            "live batch norm sees together, and the order of summation differ, so the result is not bit-exact"
        )
