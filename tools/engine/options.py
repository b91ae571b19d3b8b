"""Option groups that all training commands share. Each task adds groups of its own for data and model.

Each group checks its values when it is made, so that wrong ones are refused before anything is built.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from backbones.common.machine import prepare_device
from backbones.common.options import option
from backbones.common.split_options import SplitOptions
from backbones.errors import require
from tools.cli.arguments import REPEATABLE
from tools.cli.plugins import PluginOptions


class WithSplits(Protocol):
    """Data options with the name of the validation split."""

    @property
    def val_split(self) -> str: ...


class WithWeights(Protocol):
    """Option group with the option `weights`: the weights of a model."""

    @property
    def weights(self) -> str: ...


class TaskOptions(Protocol):
    """The option groups of a training command. Each task adds groups of its own for data and model."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def train(self) -> TrainOptions: ...

    @property
    def run(self) -> RunOptions: ...

    @property
    def plugins(self) -> PluginOptions: ...

    @property
    def subset(self) -> SubsetOptions: ...

    @property
    def split(self) -> SplitOptions: ...

    @property
    def model(self) -> WithWeights: ...

    @property
    def data(self) -> WithSplits: ...


@dataclass
class TrainOptions:
    """Length, optimizer and learning rate of the training.

    Args:
        epochs: number of passes over the training images. With --resume a larger number trains a finished run on; the
            learning rate is then that of the same step in a run of the new length.
        batch_size: images per optimizer step, over all processes and accumulated batches.
        accumulate: batches per optimizer step and process. More of them give the same batch size with less memory.
        optimizer: a name that timm knows: momentum (plain SGD), sgd (with Nesterov momentum), adamw, lamb, ...
        lr: learning rate at batch_size; absent: base_lr, scaled to batch_size by the rule that the plan prints.
        base_lr: learning rate at base_batch_size images per step.
        base_batch_size: batch size for which base_lr was tuned.
        momentum: momentum of the optimizers that are not adaptive.
        weight_decay: weight decay; biases and norm layers have none.
        layer_decay: factor on the learning rate of each earlier part: the backbone's last stage trains at the learning
            rate times this factor, the stage before at the learning rate times its square, and so on to the stem; 1
            trains all parts alike.
        thaw: epochs after which frozen stages start to train, one stage for each number, the last stage first; their
            batch norm stays frozen. [2, 4] thaws two stages, [2, 2] thaws both after epoch 2. Needs --freeze.
        schedule: how the learning rate changes after the warm-up.
        milestones: fractions of the run at which schedule step divides the learning rate by ten.
        warmup: fraction of the run in which the learning rate rises linearly, starting at a thousandth of its value.
        clip_norm: largest norm of the gradient; 0 for no limit.
        ema: decay of an exponential moving average of the weights, which is evaluated and saved instead of them; 0 for
            none.
        precision: auto is bf16 if the hardware supports it, else fp32.
    """

    epochs: int = option(12, resume="longer")
    batch_size: int = 16
    accumulate: int = 1
    optimizer: str = "momentum"
    lr: float | None = option(None, resume="nonfinite")
    base_lr: float = option(0.02, resume="nonfinite")
    base_batch_size: int = 16
    momentum: float = 0.9
    weight_decay: float = 1e-4
    layer_decay: float = 1.0
    thaw: list[int] | None = None
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, float] = (0.667, 0.917)
    warmup: float = option(0.01, resume="nonfinite")
    clip_norm: float = option(0.0, resume="nonfinite")
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "base_lr", "base_batch_size"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        require(self.lr is None or self.lr > 0, "lr", self.lr, "must be above 0")
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "must be above 0 and at most 1")
        thaw = self.thaw or []
        require(thaw == sorted(thaw), "thaw", thaw, "must be epochs in rising order, such as [2, 4]")
        within = all(0 < epoch < self.epochs for epoch in thaw)
        rule = f"must be epochs before the last one: 1 to {self.epochs - 1} with --epochs {self.epochs}"
        require(within, "thaw", thaw, rule)
        for name in ("weight_decay", "clip_norm"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or above")
        for name in ("momentum", "warmup", "ema"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be at least 0 and below 1")
        in_order = 0 < self.milestones[0] <= self.milestones[1] <= 1
        require(
            in_order, "milestones", self.milestones, "must be two rising fractions of the run, such as [0.667, 0.917]"
        )


@dataclass
class SubsetOptions:
    """Part of the training images to train on, to find out how much data a model needs.

    Args:
        fraction: fraction of the training images to use, the same fraction of each class. With one draw, a smaller
            fraction is a subset of a larger one.
        shots: number of examples of each class to use. Examples are objects (the other objects of the chosen images are
            ignored, neither objects nor background), images of a class, or images whose label map shows the class.
            With one draw, fewer shots are a subset of more.
        train_list: file that lists the training images to use, by image id or file name: plain text with one image a
            line, a JSON list, JSON lists by percent and draw, or a COCO file of the chosen images.
        list_percent: which percentage of a train_list that holds several to use.
        list_positions: the numbers of train_list are no image ids, but positions from 0 among the images that have an
            object, in the order of their ids, as in Unbiased Teacher's COCO_supervision.txt.
        draw: seed of the choice for fraction and shots, by default --seed; the draw of a train_list that holds several.
        full_epochs: repeat the chosen images, so that an epoch has as many images as without a choice.
    """

    fraction: float = 1.0
    shots: int | None = None
    train_list: str | None = None
    list_percent: float | None = None
    list_positions: bool = False
    draw: int | None = None
    full_epochs: bool = False

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, "fraction", self.fraction, "must be above 0 and at most 1")
        require(self.shots is None or self.shots > 0, "shots", self.shots, "must be above 0")
        require(self.draw is None or self.draw >= 0, "draw", self.draw, "must be 0 or above")
        single = "cannot be combined with {}; leave one of them out"
        require(self.shots is None or self.fraction == 1, "shots", self.shots, single.format("--fraction"))
        other = "--fraction" if self.fraction < 1 else "--shots" if self.shots else None
        require(not (self.train_list and other), "train_list", self.train_list, single.format(other))
        for name in ("list_percent", "list_positions"):
            value = getattr(self, name)
            require(self.train_list or not value, name, value, "needs --train-list, the file with the lists")

    @property
    def asked(self) -> str:
        """Return the option that chooses a part of the images, with its value, for messages; "" if there is none."""
        if self.fraction < 1:
            return f"--fraction {self.fraction}"
        if self.shots is not None:
            return f"--shots {self.shots}"
        return f"--train-list {self.train_list}" if self.train_list else ""


@dataclass
class RunOptions:
    """Folder of the run, evaluations, checkpoints and processes.

    Args:
        output: the run folder; absent: a new folder under runs/.
        resume: continue the run in output from its last checkpoint that is not damaged.
        eval_only: evaluate without training.
        dry_run: run a few training steps, print how long the whole training would take, and write no files.
        seed: seed of initial weights, image order and augmentation.
        workers: data-loading processes per training process; absent: one per core, at most four.
        cache: keep decoded images, so that later epochs need not decode them: ram keeps them in memory, disk in the run
            folder. The same bits train the model.
        cache_gib: largest size of the decoded images in GiB, on each machine; absent: a quarter of the free space; at
            most half of it.
        deterministic: compute the same bits in every run, also on a GPU, where it is slower.
        compile: train with torch.compile: backbone and heads become faster, but the first steps wait for the compiler.
        checkpoint_every: optimizer steps between checkpoints within an epoch; each epoch ends with a checkpoint too.
        keep_checkpoints: number of checkpoints to keep; 0: one while the run trains, and none after its end, so that it
            cannot be continued.
        eval_every: epochs between evaluations; the last epoch always ends with one.
        eval_steps: optimizer steps between further evaluations within the epochs; 0 for none.
        patience: number of consecutive evaluations without a new best score after which training ends early; 0 for no
            limit.
        deliver: the model in model.safetensors, results, predictions and pictures. best has the best score of all
            evaluations, last is the model after the last step.
        val_loss: compute the training loss on the validation images as well, in the same pass.
        threads: CPU threads of this process; absent: OMP_NUM_THREADS if it is set, else an equal part of the cores.
        on_bad_image: raise stops the run at an image that is missing or does not decode. skip trains on another image
            in its place; evaluation counts it as wrong, or leaves it out of mIoU; results.json lists it.
        timeout: minutes that processes wait for each other before all of them end.
        track: where to send losses and metrics besides metrics.jsonl: tensorboard, csv, mlflow, wandb, or none; may be
            given several times. By default tensorboard.
        device: auto, cpu, cuda, cuda:1 or mps; auto is the GPU of this process, or else the CPU.
    """

    output: str | None = option(None, resume="free")
    resume: bool = option(False, resume="free")
    eval_only: bool = option(False, resume="free")
    dry_run: bool = option(False, resume="free")
    seed: int = 0
    workers: int | None = option(None, resume="free")
    cache: Literal["none", "ram", "disk"] = option("none", resume="free")
    cache_gib: float | None = option(None, resume="free")
    deterministic: bool = False
    compile: bool = option(False, resume="free")
    checkpoint_every: int = option(500, resume="free")
    keep_checkpoints: int = option(2, resume="free")
    eval_every: int = option(1, resume="free")
    eval_steps: int = option(0, resume="free")
    patience: int = option(0, resume="free")
    deliver: Literal["best", "last"] = option("best", resume="free")
    val_loss: bool = option(False, resume="free")
    threads: int | None = option(None, resume="free")
    on_bad_image: Literal["raise", "skip"] = option("raise", resume="free")
    timeout: float = option(30.0, resume="free")
    track: list[str] = field(default_factory=lambda: ["tensorboard"], metadata={**REPEATABLE, "resume": "free"})
    device: str = option("auto", resume="free")

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "eval_every"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        trains_anew = not (self.eval_only or self.resume)
        require(
            trains_anew or not self.dry_run, "dry_run", self.dry_run, "cannot be combined with --eval-only or --resume"
        )
        for name in ("keep_checkpoints", "eval_steps", "patience", "seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or above")
        require(self.workers is None or self.workers >= 0, "workers", self.workers, "must be 0 or above")
        size = self.cache_gib
        require(size is None or 0 < size < float("inf"), "cache_gib", size, "must be above 0")
        # A resumed run may switch the cache off; its configuration still names the size.
        keeps = self.cache != "none" or self.resume
        require(size is None or keeps, "cache_gib", size, "keeps nothing; add --cache ram or --cache disk")
        prepare_device(self.device)
        self.track = [name for each in self.track for name in each.split(",") if name != "none"]
        require(self.timeout > 0, "timeout", self.timeout, "must be above 0")
        require(self.threads is None or self.threads > 0, "threads", self.threads, "must be above 0")


def require_frozen(train: TrainOptions, stages: int) -> None:
    """Refuse a `--thaw` that names more stages than are frozen.

    Args:
        stages: number of frozen stages.

    Raises:
        UserError: `--thaw` has more epochs than there are frozen stages.
    """
    thaw = train.thaw or []
    require(stages or not thaw, "thaw", thaw, "no stage is frozen; give --freeze as well")
    rule = f"thaws {len(thaw)} stages, but --freeze freezes {stages}; give at most that many epochs"
    require(len(thaw) <= stages, "thaw", thaw, rule)
