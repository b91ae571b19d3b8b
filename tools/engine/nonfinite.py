"""Handles values that are not finite in a training: the error message, and the file that `tools/replay.py` reads."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from backbones.common.run_files import resume_options
from backbones.errors import UserError, counted
from tools.engine import checkpoint
from tools.engine.batches import Images, Losses, Targets, image_ids
from tools.engine.optim import gradient_norm
from tools.engine.random_states import set_random_state
from tools.engine.state import Training
from tools.processes import distributed

Evidence: TypeAlias = dict[str, object]  # tensors, trees of tensors, and JSON values
Kind: TypeAlias = Literal["loss", "gradient"]


class NonFiniteError(UserError):
    """Error for a loss, gradient or weights that are not finite. Every process raises it.

    Attributes:
        step: the optimizer step, from 1.
        evidence: batch and weights of this process; None if its batch is not a cause of the error.
        reports: whether this process prints the error.
    """

    def __init__(self, text: str, *, step: int, evidence: Evidence | None, reports: bool) -> None:
        super().__init__(text)
        self.step, self.evidence, self.reports = step, evidence, reports

    def keep(self, folder: Path, *, config: Mapping[str, object], meta: Mapping[str, object]) -> UserError:
        """Write batch, weights and random state of the step to the run folder; return the error to raise."""
        text = f"{self}; go on from the last checkpoint with {resume_options(folder)} --lr LOWER"
        if self.evidence is None:
            return UserError(text)
        path = folder / f"nonfinite-step-{self.step}-rank-{self.evidence['rank']}.safetensors"
        try:
            checkpoint.save(path, {**self.evidence, "config": config, "meta": meta})
        except UserError as error:
            # Still report the loss, which matters more than a full disk.
            return UserError(f"{text}; {error}")
        return UserError(f"{text}; find the cause with: python tools/replay.py {shlex.quote(str(path))}")


def error_of(
    training: Training,
    kind: Kind,
    images: Images,
    targets: Targets,
    *,
    losses: Losses,
    random: Mapping[str, Tensor],
) -> NonFiniteError:
    """Return the error for a step whose loss or gradient is not finite. All processes must call this.

    The error names the batches that caused it; each of their processes keeps its batch.

    Args:
        losses: losses of this process's batch.
        random: state of the random generators before the pass.
    """
    rank, lr, step = distributed.rank(), training.optimizer.param_groups[0]["lr"], training.step + 1
    mine = _is_cause(training, kind, images, targets, losses=losses, random=random)
    texts = distributed.all_gather(describe(losses, targets, rank=rank, lr=lr) if mine else None)
    text = f"the {kind} is not finite at step {step} of {'; '.join(filter(None, texts))}"
    text += "; try a lower --lr or a longer --warmup"
    if not mine:
        return NonFiniteError(text, step=step, evidence=None, reports=False)
    facts = {"step": step, "rank": rank, "lr": lr, "precision": str(training.precision.dtype).removeprefix("torch.")}
    model = distributed.unwrap(training.model)
    kept = evidence(model, images, targets, losses=losses, random=random, **facts)
    return NonFiniteError(text, step=step, evidence=kept, reports=True)


def require_finite_weights(state: Mapping[str, object], *, step: int) -> None:
    """Refuse weights or optimizer state that are not finite, before they are saved. All processes must call this.

    Args:
        state: the values to be saved. Only those of the main process are checked.
        step: number of finished steps.

    Raises:
        NonFiniteError: on every process.
    """
    name = distributed.on_main(lambda: checkpoint.first_not_finite(state))
    if name is not None:
        text = f"{name} is not finite after step {step}, so it is not saved; try a lower --lr or a longer --warmup"
        raise NonFiniteError(text, step=max(step, 1), evidence=None, reports=distributed.is_main())


def describe(losses: Losses, targets: Targets, *, rank: int, lr: float) -> str:
    """Describe the batch of one process for the error message: loss terms, learning rate, images, boxes."""
    terms = ", ".join(f"{name} {loss.item():.4g}" for name, loss in losses.items())
    return f"process {rank}: {terms}; lr {lr:.3g}; images {image_ids(targets)}{_boxes(targets)}"


def evidence(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    losses: Losses,
    random: Mapping[str, Tensor],
    **facts: object,
) -> Evidence:
    """Return the inputs of a forward pass: images, targets, weights and random state.

    Args:
        model: the bare model, with the weights that gave the loss. They are newer than the last checkpoint.
        random: state of the random generators before the pass.
        facts: further JSON values.
    """
    return {
        "images": images,
        "targets": targets,
        "random": random,
        "parameters": dict(model.named_parameters()),
        "buffers": dict(model.named_buffers()),  # also those that no checkpoint holds, such as class weights of a loss
        "losses": {name: loss.item() for name, loss in losses.items()},
        **facts,
    }


def _is_cause(
    training: Training,
    kind: Kind,
    images: Images,
    targets: Targets,
    *,
    losses: Losses,
    random: Mapping[str, Tensor],
) -> bool:
    """Return whether this process's batch causes the loss or gradient that is not finite.

    The exchange of gradients spreads such values to all processes. So each process repeats its own batch without the
    exchange. If none of the batches causes it again, the main process returns True.
    """
    if kind == "loss":
        return not all(loss.isfinite() for loss in losses.values())
    found = distributed.all_gather(_breaks_gradient(training, images, targets, random=random))
    return found[distributed.rank()] or (distributed.is_main() and not any(found))


def _breaks_gradient(training: Training, images: Images, targets: Targets, *, random: Mapping[str, Tensor]) -> bool:
    """Repeat a training pass without the other processes; return whether its gradient is not finite."""
    model, precision = distributed.unwrap(training.model), training.precision
    training.optimizer.zero_grad(set_to_none=True)
    set_random_state(dict(random), precision.device)
    with precision.autocast():
        losses: Losses = model(images, targets)
    precision.scaler.scale(functools.reduce(torch.add, losses.values())).backward()
    return not gradient_norm(model).isfinite().item()


def _boxes(targets: Targets) -> str:
    """Describe the boxes of a detection batch as text; return "" for other tasks."""
    boxes = [target["boxes"] for target in targets if isinstance(target, dict) and "boxes" in target]
    if not boxes:
        return ""
    sides = torch.cat([box[:, 2:] - box[:, :2] for box in boxes]).float()
    span = f", sides of {sides.min():.4g} to {sides.max():.4g} pixels" if len(sides) else ""
    return f"; {counted(len(sides), 'box')}{span}"
