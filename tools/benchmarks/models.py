"""Base class of the models that the benchmarks measure. All libraries build a model with the same weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backbones.fold import Folds
from tools.benchmarks.machine import DTYPES, device
from tools.benchmarks.options import Mode
from tools.benchmarks.rounds import Implementation, Step
from tools.benchmarks.settings import OURS, Way
from tools.engine import cost
from tools.engine.compiling import compile_parts
from tools.engine.optim import build_optimizer, memory_order
from tools.engine.options import TrainOptions
from tools.engine.state import Precision
from tools.engine.task import TrainedModule


class Calls(NamedTuple):
    """Functions that run one model on a fixed input: a prediction, and the training loss.

    Attributes:
        predict: makes one prediction.
        loss: computes the training loss.
    """

    predict: Callable[[], object]
    loss: Callable[[], Tensor]


class BenchmarkModel(ABC):
    """Base class of a model to be measured in our library and in others; `str(model)` is its name.

    Attributes:
        size: size of the images in pixels.
        batch: images per step.
        lr: learning rate, so small that random weights do not diverge.
        difference: name in results.json of the value that `share_weights` returns.
        fixed_size: whether all batches of a training have one shape.
    """

    size: int
    batch: int
    lr: ClassVar[float] = 1e-4
    difference: ClassVar[str]
    fixed_size: ClassVar[bool] = True

    @property
    @abstractmethod
    def peers(self) -> list[str]:
        """Return the names of the other libraries that can build the same model, such as ["torchvision", "timm"]."""

    @abstractmethod
    def build(self, library: str, weights: Path | None = None) -> nn.Module:
        """Build this model with one library, such as "timm". Without a weights file the weights are random.

        Raises:
            UserError: the model is unknown, or the file does not have all its weights.
        """

    @abstractmethod
    def calls(self, model: nn.Module, job: ModelJob) -> Calls:
        """Make random input for a model from `build`, and return functions that run the model on it."""

    @abstractmethod
    def share_weights(self, path: Path) -> float | None:
        """Save random weights that all libraries can load, and compare the libraries' outputs in fp32.

        Returns:
            The largest difference between our values and another library's, as a fraction of the largest value; None
            if there is nothing to compare. The file does not exist afterwards if no other library can load it.
        """

    def parameters(self) -> int:
        """Count the parameters of our model on the meta device, where nothing is computed.

        Raises:
            UserError: the model is unknown.
        """
        with torch.device("meta"):
            return cost.parameters(self.build(OURS))


@dataclass(frozen=True)
class ModelJob:
    """A model to measure in one library, one precision and one mode (training or inference). It can be pickled.

    Attributes:
        weights: file that all libraries can load; None: random weights.
        compiled: whether torch.compile compiles the model, which must be ours.
    """

    library: str
    spec: BenchmarkModel
    way: Way
    mode: Mode
    weights: Path | None
    compiled: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of weights and images: channels_last or contiguous."""
        return torch.channels_last if self.way.channels_last else torch.contiguous_format

    @property
    def implementation(self) -> Implementation:
        """This job as an `Implementation`, which `rounds.measure` times."""
        return Implementation(f"{self.library}{' compiled' if self.compiled else ''}: {self.way}", self.prepare)

    def prepare(self) -> Step:
        """Build model, input and optimizer; return a function that runs one training step or one prediction."""
        torch.manual_seed(0)
        model = self.spec.build(self.library, self.weights)
        model = model.to(device()).to(memory_format=self.memory_format).train(self.mode == "train")
        if self.compiled:
            compile_parts(cast(TrainedModule, model).compilable(), fixed_size=self.spec.fixed_size)
        calls = self.spec.calls(model, self)
        return self._training(model, calls.loss) if self.mode == "train" else self._prediction(calls.predict)

    def _training(self, model: nn.Module, loss: Callable[[], Tensor]) -> Step:
        """Return a function that runs one training step: forward, loss, backward and a fused SGD step.

        For our model, the SGD step and the weight gradients are those of the training commands; for the others, they
        are torch's own.
        """
        optimizer = build_optimizer(model, TrainOptions(lr=self.spec.lr))
        ours, dtype = self.library == OURS, DTYPES[self.way.precision]
        precision = Precision(device(), dtype)

        def step() -> None:
            with precision.autocast() if ours else torch.autocast(device().type, dtype, enabled=dtype.itemsize == 2):
                value = loss()
            value.backward()
            with memory_order(optimizer) if ours else nullcontext():
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    def _prediction(self, predict: Callable[[], object]) -> Step:
        """Return a function that runs one prediction in inference mode, as the evaluation loop does."""
        precision, folds = Precision(device(), DTYPES[self.way.precision]), Folds()

        def step() -> None:
            with torch.inference_mode(), precision.autocast(), folds:
                predict()

        return step


def operations(step: Step) -> int:
    """Run a step and count the operations of its convolutions and matrix products; a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
