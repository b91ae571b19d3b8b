"""Base class of the tasks' evaluations of a run on its validation split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from backbones.common.files import write_json
from backbones.common.run_files import RESULTS_FILE
from tools.engine.bad_images import BadImages
from tools.engine.batches import Batch
from tools.engine.compiling import uncompiled
from tools.engine.evaluation import Evaluator, Results, evaluate
from tools.engine.experiment import Experiment
from tools.engine.history import changed_options
from tools.processes import distributed

EvaluatorType = TypeVar("EvaluatorType", bound=Evaluator)


class Measure(ABC, Generic[EvaluatorType]):
    """Evaluates models on the validation split and writes the results of a run.

    A task implements the abstract methods. The run calls the object after each epoch (or as `--eval-every` says) with
    the model to evaluate, and `report` once at the end.

    Attributes:
        loader: validation batches of this process.
        evaluator: the evaluator of the last call, with the predictions of all processes.
    """

    loader: Iterable[Batch]
    evaluator: EvaluatorType

    def __init__(self, experiment: Experiment, bad: BadImages) -> None:
        self.experiment, self.bad = experiment, bad

    def __call__(self, model: nn.Module) -> Results:
        """Return the metrics of a model, the same on every process."""
        self.evaluator = self.new_evaluator()
        results = self.evaluate(model, self.loader, self.evaluator, losses=self.experiment.run.val_loss)
        return {**results, **self.further_results(model), **self.bad.counted()}

    def evaluate(
        self, model: nn.Module, loader: Iterable[Batch], evaluator: Evaluator, *, losses: bool = False
    ) -> Results:
        """Return the metrics of a model on the batches of a loader; with `losses` also the mean training losses."""
        precision = self.experiment.precision()
        return evaluate(self.predictor(model), loader, evaluator, precision=precision, losses=losses)

    def report(self, model: nn.Module, results: Results, costs: Mapping[str, object]) -> None:
        """On the main process, print the table of results; write results.json, predictions and drawn samples."""
        if not distributed.is_main():
            return
        folder = self.experiment.folder
        everything = {**self.kept_results(), **results, **self.bad.listed(), **costs}
        everything.update(changed_options(folder))
        write_json(folder / RESULTS_FILE, everything)
        self.write_predictions(folder, self.evaluator)
        print(self.table(results))
        with uncompiled(model):
            print(self.write_samples(model, folder))

    @abstractmethod
    def new_evaluator(self) -> EvaluatorType:
        """Return an empty evaluator of the validation split."""

    @abstractmethod
    def predictor(self, model: nn.Module) -> nn.Module:
        """Wrap a model so that it predicts as the evaluation options demand, for example also on flipped images."""

    @abstractmethod
    def write_predictions(self, folder: Path, evaluator: EvaluatorType) -> None:
        """Write the predictions of the last evaluation into a run folder."""

    @abstractmethod
    def table(self, results: Results) -> str:
        """Return the results as a table for printing."""

    @abstractmethod
    def write_samples(self, model: nn.Module, folder: Path) -> str:
        """Draw sample predictions if the task has any; return a line that names the files with the results."""

    def further_results(self, model: nn.Module) -> Results:
        """Return metrics on other images than the validation split, such as training images. By default {}."""
        return {}

    def conclude(self) -> Results:
        """Return metrics of the last evaluation that are computed once, for the delivered model. By default {}.

        Called on every process. It may set `experiment.measured_meta`.
        """
        return {}

    def kept_results(self) -> Results:
        """Return entries of an earlier results.json that the new file keeps. By default {}."""
        return {}
