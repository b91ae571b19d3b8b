"""Interface between a run and a task: what a task must provide so that it can be trained and evaluated.

`tools.engine.run.run` calls the methods of a `Task` in the order in which they are declared here. A new task needs a
package (such as `detection/`), a file in `tools/tasks/` with its `Task` and its `Measure`, an entry in
`tools/tasks/options.py`, and a command of a few lines in `tools/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeAlias, TypeVar

from torch import nn

from backbones.common.data_split import DataSplit
from backbones.common.decoded import DecodedImages
from backbones.common.files import JsonObject
from tools.engine.bad_images import BadImages
from tools.engine.batches import Batch, Batches
from tools.engine.experiment import Experiment
from tools.engine.measure import Measure
from tools.engine.options import TaskOptions

Meta: TypeAlias = JsonObject  # saved in the header of weights files


class TaskData(Protocol):
    """The data of a run: training split (absent with `--eval-only`) and validation split.

    Attributes:
        split: how the training images were split, if the data have no validation split.
    """

    @property
    def split(self) -> DataSplit | None: ...

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of the images of each split, so that `--resume` can refuse other images."""

    def keep_decoded(self, cache: DecodedImages | None) -> None:
        """Read the images of loaders that are made from now on through a cache.

        Raises:
            UserError: there is a cache, and the data cannot use one.
        """


class TrainedModule(Protocol):
    """Attributes and methods that a trained model must have in addition to those of `nn.Module`."""

    @property
    def load_report(self) -> object | None:
        """Report on the loaded weights, or None for random weights."""

    def compilable(self) -> dict[str, nn.Module]:
        """Return the parts by name that torch.compile can compile whole. They map tensors to tensors."""


@dataclass(frozen=True)
class TaskPlan:
    """Rows of the printed plan that depend on the task. The run adds the rows that all tasks share.

    Attributes:
        model: architecture, backbone and weights.
        classes: number of classes.
        train: description of the training images; None with `--eval-only`.
        val: description of the validation images.
        load_note: text to append to the report on loaded weights, such as a warning.
        of_data: further rows on the data.
        of_training: further rows on training; not printed with `--eval-only`.
    """

    model: str
    classes: int
    train: str | None
    val: str
    load_note: str = ""
    of_data: Mapping[str, object] = field(default_factory=dict)
    of_training: Mapping[str, object] = field(default_factory=dict)


Options = TypeVar("Options", bound=TaskOptions, contravariant=True)
Data = TypeVar("Data", bound=TaskData)
Model = TypeVar("Model", bound=nn.Module)


class Task(Protocol[Options, Data, Model]):
    """Interface of a task, such as detection, for `tools.engine.run`.

    Attributes:
        name: task of the models that it trains, such as "detection".
        prefix: first part of the names of run folders, such as "det".
        fixed_size: whether all training batches have one shape.
    """

    name: ClassVar[str]
    prefix: ClassVar[str]
    fixed_size: ClassVar[bool]

    def metric(self, options: Options, data: Data) -> str:
        """Return the key in the results of an evaluation that selects the best checkpoint; larger is better."""

    def build_data(self, options: Options, bad: BadImages) -> Data:
        """Open the validation split and, unless `options.run.eval_only`, the training split.

        Called on every process, after the run folder was chosen and plugins were loaded. The folder does not exist
        yet, so that a user error leaves no trace.

        Raises:
            UserError: files are missing or malformed.
        """

    def build_model(self, options: Options, data: Data) -> Model:
        """Build the model with its weights and frozen stages, on the CPU. Called on every process, after `build_data`.

        Raises:
            UserError: weights do not fit, or `--eval-only` was given weights of other classes.
        """

    def meta(self, options: Options, data: Data, model: Model) -> Meta:
        """Describe the model for users of its weights: task, classes, input sizes, model options."""

    def batches(self, options: Options, data: Data) -> Batches:
        """Return the order of the training images. With `--eval-only` only its number of steps is used."""

    def plan(self, options: Options, data: Data, model: Model, meta: Meta) -> TaskPlan:
        """Return the task's rows of the printed plan. Called after the optimizer is built or restored."""

    def train_loader(
        self, experiment: Experiment, options: Options, data: Data, batches: Batches, bad: BadImages
    ) -> Iterable[Batch]:
        """Return the loader of training batches, in the order of `batches`. Not called with `--eval-only`."""

    def measure(self, experiment: Experiment, options: Options, data: Data, bad: BadImages) -> Measure:
        """Return the object that evaluates models on the validation split. Not called with `--dry-run`."""

    def example_shape(self, options: Options, meta: Meta) -> Sequence[int] | None:
        """Return the shape (C, H, W) of an image for counting multiply-adds; None if their number varies by image."""
