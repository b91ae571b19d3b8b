"""Headline metrics of each task: their keys in results.json, and where tables and charts show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from backbones.errors import UserError


@dataclass(frozen=True)
class Metric:
    """A metric that results.json and metrics.jsonl store as a fraction in 0..1.

    Attributes:
        key: name of the metric in both files.
        title: title of the metric's column in the tables of experiments.
        as_error: whether tables and charts of experiments show 100 % minus the metric.
    """

    key: str
    title: str
    as_error: bool = False

    def fraction(self, values: Mapping[str, object]) -> float | None:
        """Return this metric from results.json or a log line as a fraction 0..1; None if it is absent or null."""
        value = values.get(self.key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return value

    def percent(self, values: Mapping[str, object]) -> float | None:
        """Return this metric in percent (100 minus it if `as_error`); None if it is absent or null."""
        value = self.fraction(values)
        if value is None:
            return None
        return 100 * (1 - value) if self.as_error else 100 * value


@dataclass(frozen=True)
class TaskMetrics:
    """The headline metrics of one task.

    Attributes:
        validation: metrics on validation images, shown everywhere, model cards included; `primary` is the first one.
        axis: label of the axis of charts that show `primary`.
        training: the primary metric on training images; None if the task does not measure it.
        further_curves: further metrics that a report shows as curves over the epochs, and in its summary.
        further_summary: further metrics that a report shows only in its summary.
        alternatives: metrics in place of all of these, by the key of their primary metric: by which runs may be
            compared, or which runs have that lack these.
    """

    validation: tuple[Metric, ...]
    axis: str
    training: Metric | None = None
    further_curves: tuple[Metric, ...] = ()
    further_summary: tuple[Metric, ...] = ()
    alternatives: Mapping[str, TaskMetrics] = field(default_factory=dict)

    def by(self, key: str) -> TaskMetrics:
        """Return the metrics by which runs are compared if the primary one is to be `key`.

        Raises:
            UserError: the task does not have this metric.
        """
        if key == self.primary.key:
            return self
        if key not in self.alternatives:
            known = ", ".join([self.primary.key, *self.alternatives])
            raise UserError(f"--metric {key}: the task is compared by {known}; choose one of these")
        return self.alternatives[key]

    def measured(self, results: Iterable[Mapping[str, object]]) -> TaskMetrics:
        """Return these metrics, or the alternatives that runs have whose results lack the primary metric.

        Args:
            results: contents of results.json, or lines of metrics.jsonl.
        """
        keys = set[str]().union(*results)
        others = (other for key, other in self.alternatives.items() if key in keys)
        return self if self.primary.key in keys else next(others, self)

    @property
    def primary(self) -> Metric:
        """Main metric of the task, by which runs are compared."""
        return self.validation[0]

    @property
    def table(self) -> tuple[Metric, ...]:
        """Metrics of the task that have a column in an experiment's table."""
        return (*self.validation, self.training) if self.training else self.validation

    @property
    def curves(self) -> tuple[Metric, ...]:
        """Metrics of the task that a report draws over the epochs."""
        return (*self.table, *self.further_curves)

    @property
    def summary(self) -> tuple[Metric, ...]:
        """Metrics of the task that a report shows at the top."""
        return (*self.curves, *self.further_summary)


TASK_METRICS = {
    "classification": TaskMetrics(
        (Metric("top1", "top-1 error %", as_error=True), Metric("top5", "top-5 error %", as_error=True)),
        axis="error (%)",
        training=Metric("train_top1", "training error %", as_error=True),
        further_summary=(Metric("balanced_accuracy", "balanced accuracy %"), Metric("macro_f1", "macro F1 %")),
        alternatives={
            "mAP": TaskMetrics(  # of several classes an image
                (
                    Metric("mAP", "mAP %"),
                    Metric("macro_f1", "macro F1 %"),
                    Metric("micro_f1", "micro F1 %"),
                    Metric("exact_match", "exact match %"),
                ),
                axis="mAP (%)",
                training=Metric("train_mAP", "training mAP %"),
            )
        },
    ),
    "detection": TaskMetrics(
        (Metric("AP", "AP %"), Metric("AP50", "AP50 %"), Metric("AP75", "AP75 %")),
        axis="AP (%)",
        further_summary=(
            Metric("AR100", "AR100 %"),
            Metric("segm_AP", "mask AP %"),
            Metric("segm_AP50", "mask AP50 %"),
            Metric("segm_AP75", "mask AP75 %"),
        ),
        alternatives={
            "segm_AP": TaskMetrics(
                (
                    Metric("segm_AP", "mask AP %"),
                    Metric("segm_AP50", "mask AP50 %"),
                    Metric("segm_AP75", "mask AP75 %"),
                    Metric("AP", "AP %"),
                ),
                axis="mask AP %",
            )
        },
    ),
    "segmentation": TaskMetrics(
        (Metric("mIoU", "mIoU %"), Metric("pixel_accuracy", "pixel accuracy %")),
        axis="mIoU (%)",
        further_curves=(Metric("mean_accuracy", "mean accuracy %"),),
    ),
}
