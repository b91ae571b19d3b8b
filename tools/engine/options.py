"""Option groups that the training scripts share; a task adds its own group for data and model.

Every group checks its own values, so that a wrong one is refused before anything is built.
"""

from __future__ import annotations

from dataclasses import Field, dataclass
from typing import Any, ClassVar, Literal, Protocol

from backbones.common.options import option
from backbones.errors import require
from tools.cli.plugins import PluginOptions


class WithWeights(Protocol):
    """Option group of a model."""

    @property
    def weights(self) -> str: ...


class TaskOptions(Protocol):
    """Dataclass with the option groups of a training command. A task adds its own groups for data and model."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def train(self) -> TrainOptions: ...

    @property
    def run(self) -> RunOptions: ...

    @property
    def plugins(self) -> PluginOptions: ...

    @property
    def model(self) -> WithWeights: ...


@dataclass
class TrainOptions:
    """How long and how to train.

    Args:
        epochs: passes over the training images.
        fraction: share of the training images to use, the same of each class; smaller shares lie within larger ones,
            and the seed says which images they are.
        batch_size: images per optimizer step, over all processes and accumulated batches together.
        accumulate: batches per step and process; reaches a recipe's batch size on fewer or smaller devices.
        optimizer: any name timm knows: momentum (plain SGD), sgd (with Nesterov's), adamw, lamb, ...
        lr: learning rate at `batch_size`; absent: `base_lr` scaled to the batch size by the printed rule.
        base_lr: learning rate at `base_batch_size` images per step.
        base_batch_size: the batch size that `base_lr` was tuned for.
        momentum: of the optimizers that are not adaptive.
        weight_decay: of weights; biases and norm layers have none.
        layer_decay: the backbone's last stage trains at the learning rate times this, the stage before at that times
            its square, and so on down to the stem; 1 trains all alike.
        thaw: epochs after each of which one more of the frozen stages trains, the last one first; their batch norm
            stays frozen. [2, 4] thaws two stages, [2, 2] both at once; goes with --freeze.
        schedule: course of the learning rate after the warm-up.
        milestones: fractions of the run at which schedule "step" divides the learning rate by ten.
        warmup: fraction of the run over which the learning rate rises linearly from a thousandth.
        clip_norm: largest gradient norm; 0 for no limit.
        ema: decay of an exponential moving average of the weights, used for evaluation; 0 for none.
        precision: auto is bf16 where the hardware has it, else fp32.
    """

    epochs: int = 12
    fraction: float = 1.0
    batch_size: int = 16
    accumulate: int = 1
    optimizer: str = "momentum"
    lr: float | None = None
    base_lr: float = 0.02
    base_batch_size: int = 16
    momentum: float = 0.9
    weight_decay: float = 1e-4
    layer_decay: float = 1.0
    thaw: list[int] | None = None
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, float] = (0.667, 0.917)
    warmup: float = 0.01
    clip_norm: float = 0.0
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "base_lr", "base_batch_size"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        require(self.lr is None or self.lr > 0, "lr", self.lr, "must be above 0")
        require(0 < self.fraction <= 1, "fraction", self.fraction, "must be above 0 and at most 1")
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "must be above 0 and at most 1")
        thaw = self.thaw or []
        require(thaw == sorted(thaw), "thaw", thaw, "must be epochs in rising order, such as [2, 4]")
        within = all(0 < epoch < self.epochs for epoch in thaw)
        require(within, "thaw", thaw, f"must be epochs with more to come, of 1 to {self.epochs - 1} with --epochs")
        for name in ("weight_decay", "clip_norm"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or above")
        for name in ("momentum", "warmup", "ema"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be at least 0 and below 1")
        in_order = 0 < self.milestones[0] <= self.milestones[1] <= 1
        require(
            in_order, "milestones", self.milestones, "must be two rising fractions of the run, such as [0.667, 0.917]"
        )


@dataclass
class RunOptions:
    """Where a run lives and how it is repeated.

    Args:
        output: the run folder; absent: a new one under runs/.
        resume: continue from the last whole checkpoint of `output`.
        eval_only: evaluate without training.
        dry_run: make a few steps, say how long the training would take, and leave nothing behind.
        seed: of initial weights, sample order and augmentation.
        workers: processes that load data, for each training process; absent: one per core, four at most.
        deterministic: the same bits on every run, on a GPU as well, where it is slower.
        checkpoint_every: optimizer steps between checkpoints within an epoch; each epoch ends with one anyway.
        keep_checkpoints: how many of the last ones to keep.
        eval_every: epochs between evaluations; the last epoch always ends with one.
        eval_steps: optimizer steps between further evaluations within the epochs; 0 for none.
        patience: evaluations in a row without a new best score that end the training early; 0 for any number.
        val_loss: measure the training loss on the validation images as well, in the same pass.
        threads: CPU threads of this process; absent: PyTorch's choice, shared among the processes of a machine.
        on_bad_image: an image that is missing or does not decode stops the run (raise); or (skip) another takes its
            place in training, evaluation counts it as a miss, or leaves it out of mIoU, and results.json lists it.
        timeout: minutes that processes wait for one another before all of them end.
    """

    output: str | None = option(None, resume="free")
    resume: bool = option(False, resume="free")
    eval_only: bool = option(False, resume="free")
    dry_run: bool = option(False, resume="free")
    seed: int = 0
    workers: int | None = option(None, resume="free")
    deterministic: bool = False
    checkpoint_every: int = option(500, resume="free")
    keep_checkpoints: int = option(2, resume="free")
    eval_every: int = option(1, resume="free")
    eval_steps: int = option(0, resume="free")
    patience: int = option(0, resume="free")
    val_loss: bool = option(False, resume="free")
    threads: int | None = option(None, resume="free")
    on_bad_image: Literal["raise", "skip"] = option("raise", resume="free")
    timeout: float = option(30.0, resume="free")

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_checkpoints", "eval_every"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        require(not (self.dry_run and (self.eval_only or self.resume)), "dry_run", True, "is of a training's beginning")
        for name in ("eval_steps", "patience", "seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or above")
        require(self.workers is None or self.workers >= 0, "workers", self.workers, "must be 0 or above")
        require(self.timeout > 0, "timeout", self.timeout, "must be above 0")
        require(self.threads is None or self.threads > 0, "threads", self.threads, "must be above 0")


def require_frozen(train: TrainOptions, stages: int) -> None:
    """Refuse to thaw more than the `stages` that are frozen.

    Raises:
        UserError: saying how many there are.
    """
    thaw = train.thaw or []
    require(stages or not thaw, "thaw", thaw, "no stage is frozen; name --freeze as well")
    require(
        len(thaw) <= stages, "thaw", thaw, f"thaws {len(thaw)} stages, but --freeze {stages} holds no more than that"
    )
