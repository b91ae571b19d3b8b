"""The plan that a run prints before it trains: one line per fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from backbones.common.data_split import DataSplit
from backbones.errors import counted
from backbones.norm import norm_table
from tools.engine.experiment import Experiment
from tools.engine.optim import rate_rows
from tools.engine.task import TaskPlan
from tools.processes import distributed

LIVE_NORM_IMAGES = 8  # batch statistics of fewer images are noisy


def plan_rows(
    experiment: Experiment,
    model: nn.Module,
    task: TaskPlan,
    *,
    steps_per_epoch: int,
    split: DataSplit | None = None,
    compiled: Sequence[str] = (),
) -> dict[str, object]:
    """Return the rows of a run's plan, title to value: the rows of the task and the rows that all tasks share.

    Args:
        split: how the training images were split, if the data have no validation split.
        compiled: names of the parts of the model that torch.compile compiles.
    """
    train, world = experiment.train, distributed.world_size()
    precision = str(experiment.precision().dtype).removeprefix("torch.")
    rows = {
        "run folder": experiment.folder,
        "model": task.model,
        "loaded": f"{getattr(model, 'load_report', None) or 'nothing: random weights'}{task.load_note}",
        "norm layers": norm_row(model, None if experiment.run.eval_only else experiment.process_batch),
        "classes": task.classes,
        **({"split": split.describe()} if split else {}),
        "train": task.train or "none: evaluation only",
        "val": task.val,
        **task.of_data,
        "processes": f"{world} on {experiment.device.type}, {precision}",
    }
    if experiment.run.eval_only:
        return rows
    return {
        **rows,
        "batch": f"{train.batch_size} = {world} x {experiment.process_batch} x {train.accumulate} accumulated",
        **rate_rows(model, train),
        **task.of_training,
        **({"compiled": f"{', '.join(compiled)}; the first steps wait for the compiler"} if compiled else {}),
        "steps": f"{counted(train.epochs, 'epoch')} x {steps_per_epoch} = {train.epochs * steps_per_epoch}",
    }


def norm_row(model: nn.Module, process_batch: int | None) -> str:
    """Count the norm layers by state, and warn if live ones compute their statistics from few images.

    Args:
        process_batch: images of one training forward pass of one process; None without training.
    """
    table = norm_table(model)
    text = ", ".join(f"{count} {state}" for state, count in table.items()) or "none"
    if process_batch is None:
        return text
    # Synchronised batch norm computes its statistics over the images of all processes.
    images = process_batch * (1 if "live" in table else distributed.world_size())
    if images >= LIVE_NORM_IMAGES or not any(state.startswith("live") for state in table):
        return text
    few = f"live batch norm over {counted(images, 'image')} is noisy"
    return f"{text}; WARNING: {few}; --norm frozen, group, or sync on GPUs"


def print_plan(rows: Mapping[str, object]) -> None:
    """Print rows with their values aligned, on the main process."""
    if distributed.is_main():
        width = max(len(name) for name in rows)
        for name, value in rows.items():
            print(f"{name:<{width}}  {value}")
        print(flush=True)
