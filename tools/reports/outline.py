"""Outline of a report: the chapters and their order, which all tasks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from backbones.errors import UserError
from tools.reports.differences import MetricDifference, differences_section
from tools.reports.page import Paragraph, Section
from tools.reports.settings import ReportSettings
from tools.runs.folder import RunFolder


class RunPredictions(Protocol):
    """Predictions of one finished run, read from its run folder."""

    @property
    def run(self) -> RunFolder:
        """Run folder that the predictions were read from."""

    @property
    def digest(self) -> object:
        """Value that is equal for two runs exactly if they were evaluated on the same images and truth."""


Predictions = TypeVar("Predictions", bound=RunPredictions)


class TaskReport(ABC, Generic[Predictions]):
    """Base class of the tasks' reports. A task implements the abstract methods; `sections` calls them in order.

    Some chapters need results.json only. The others need the predictions of all runs. If the predictions of a run
    cannot be read, the report begins with the reason and leaves out the other chapters.
    """

    def __init__(self, settings: ReportSettings) -> None:
        self.settings = settings

    @abstractmethod
    def read(self, run: RunFolder) -> Predictions:
        """Read the predictions of a run; raise a UserError if they are missing."""

    @abstractmethod
    def metrics_section(self, runs: Sequence[RunFolder]) -> Section:
        """Return the first chapter of the report: the metrics in results.json of each run."""

    @abstractmethod
    def differences(self, first: Predictions, other: Predictions) -> list[MetricDifference]:
        """Return the differences between two runs in each metric, with bootstrap intervals."""

    def sections_from_results(self, runs: Sequence[RunFolder]) -> list[Section]:
        """Return the chapters after the first that need only results.json."""
        return []

    def sections_from_predictions(self, found: Sequence[Predictions]) -> list[Section]:
        """Return the chapters that need the predictions, except those that show images."""
        return []

    @abstractmethod
    def changed_section(self, found: Sequence[Predictions]) -> Section:
        """Return the chapter with the images on which the runs' predictions differ most."""

    @abstractmethod
    def image_sections(self, found: Sequence[Predictions]) -> list[Section]:
        """Return the chapters that show images, which are the last ones about the results."""

    def difference_notes(self, found: Sequence[Predictions]) -> list[Paragraph]:
        """Return paragraphs to show below the tables of differences. By default there are none."""
        return []

    def results_digest(self, run: RunFolder) -> object:
        """Return a value that is equal for runs with the same number of images and the same classes in results.json."""
        classes = run.results.get("per_class") or {}
        return run.results["images"], [(name, entry.get("id"), entry.get("boxes")) for name, entry in classes.items()]

    def sections(self, runs: Sequence[RunFolder]) -> list[Section]:
        """Return all chapters about the results of one run, or the comparison of several runs.

        Raises:
            UserError: if the runs were not evaluated on the same images.
        """
        found, missing = self._read_all(runs)
        require_same_images(runs, [self.results_digest(run) for run in runs])
        if missing:
            return [_missing_section(missing), self.metrics_section(runs), *self.sections_from_results(runs)]
        require_same_images(runs, [each.digest for each in found])
        several = len(runs) > 1
        return [
            self.metrics_section(runs),
            *([self._differences_section(found)] if several else []),
            *self.sections_from_results(runs),
            *self.sections_from_predictions(found),
            *([self.changed_section(found)] if several else []),
            *self.image_sections(found),
        ]

    def _read_all(self, runs: Sequence[RunFolder]) -> tuple[list[Predictions], list[str]]:
        """Read the predictions of all runs. Return those that could be read, and error messages for the others."""
        found, missing = [], []
        for run in runs:
            try:
                found.append(self.read(run))
            except UserError as error:
                missing.append(str(error))
        return found, missing

    def _differences_section(self, found: Sequence[Predictions]) -> Section:
        names = [each.run.name for each in found]
        tables = [self.differences(found[0], other) for other in found[1:]]
        images, resamples = found[0].run.results["images"], self.settings.bootstrap
        section = differences_section(names, tables, images=images, resamples=resamples)
        return Section(section.title, [*section.blocks, *self.difference_notes(found)], section.intro)


def require_same_images(runs: Sequence[RunFolder], digests: Sequence[object]) -> None:
    """Refuse runs that were evaluated on different images, which their digests show."""
    other = next((run for run, digest in zip(runs, digests, strict=True) if digest != digests[0]), None)
    if other is not None:
        raise UserError(
            f"{other.folder}: was evaluated on other images or classes ({other.data_name}) "
            f"than {runs[0].folder} ({runs[0].data_name}); report them separately"
        )


def _missing_section(reasons: Sequence[str]) -> Section:
    notes = [Paragraph(text, warning=True) for text in dict.fromkeys(reasons)]
    return Section(
        "Missing data", notes, "The report shows the content of results.json. The other chapters need what is missing:"
    )
