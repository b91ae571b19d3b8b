"""Computes mAP, F1 scores and thresholds of multi-label classifiers, the same for any number of processes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from backbones.errors import counted

DEFAULT_THRESHOLD = 0.5  # of a class without examples
# One row per image, as columns by name: index [N], label and score [N, classes], read [N].
LabelRows: TypeAlias = dict[str, np.ndarray]


class LabelSets:
    """Accumulates one row per image and computes metrics at the end. So the results do not depend on the processes.

    Args:
        classes: names by label.
        prefix: text before the names of the metrics, such as "train_".
        expected: indices `[N]` and labels `[N, classes]` of all images to evaluate; images without a prediction,
            because they cannot be read, count as images without predicted classes. None evaluates the added images.
        thresholds: least probability `[classes]` at which a class counts as predicted. None chooses, for each class,
            the threshold with the highest F1 on the evaluated images.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        prefix: str = "",
        expected: tuple[np.ndarray, np.ndarray] | None = None,
        thresholds: Sequence[float] | None = None,
    ) -> None:
        self.classes, self.prefix, self.expected, self.given = tuple(classes), prefix, expected, thresholds
        self._parts: list[LabelRows] = []

    def update(self, probabilities: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Add a batch of probabilities `[N, classes]` with targets `label` `[N, classes]` bool and `index` `[N]`."""
        scores = probabilities.float().nan_to_num(0.0).cpu().numpy()
        part = {"index": targets["index"].cpu().numpy(), "label": targets["label"].cpu().numpy() > 0, "score": scores}
        self._parts.append({**part, "read": np.ones(len(scores), bool)})

    def state(self) -> list[LabelRows]:
        """Return the rows of this process, which can be pickled and passed to `merge`."""
        return self._parts

    def merge(self, states: Iterable[list[LabelRows]]) -> None:
        """Replace the rows by those of all processes."""
        self._parts = [part for state in states for part in state]

    def rows(self) -> LabelRows:
        """Return one row per image, in the split's order. An image that could not be read has scores of -1."""
        parts = self._parts if self.expected is None else [*self._parts, self._unread(*self.expected)]
        if not parts:
            empty = np.zeros((0, len(self.classes)))
            return {"index": np.zeros(0, int), "label": empty > 0, "score": empty, "read": np.zeros(0, bool)}
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(rows["index"], kind="stable")
        return {name: values[order] for name, values in rows.items()}

    def thresholds(self, rows: LabelRows) -> np.ndarray:
        """Return the given thresholds, or those with the highest F1 on the images `[classes]`."""
        if self.given is not None:
            return np.array(self.given)
        columns = zip(rows["label"].T, rows["score"].T, strict=True)
        return np.array([best_threshold(labels, scores) for labels, scores in columns])

    def compute(self) -> dict[str, object]:
        """Compute the metrics. Values are 0..1, or None if there is nothing to measure.

        Returns:
            `mAP`, the mean over the classes with images of the average precision; at the thresholds `macro_f1` (the
            mean of the classes' F1), `micro_f1` (of all decisions together) and `exact_match` (fraction of the images
            whose predicted set of classes is the true one); `images`. Without a prefix also `per_class`, which maps the
            name of each class to its average precision `AP`, its `F1`, its `threshold` and its number of `images`.
        """
        rows = self.rows()
        limits = self.thresholds(rows)
        label, predicted = rows["label"], predicted_sets(rows["score"], limits)
        precisions = [average_precision(*pair) for pair in zip(label.T, rows["score"].T, strict=True)]
        f1 = [f1_score(*pair) for pair in zip(label.T, predicted.T, strict=True)]
        exact = (label == predicted).all(1) & rows["read"]
        metrics: dict[str, object] = {
            "mAP": _mean(precisions),
            "macro_f1": _mean(f1),
            "micro_f1": f1_score(label.ravel(), predicted.ravel()),
            "exact_match": float(exact.mean()) if len(exact) else None,
            "images": len(exact),
        }
        if not self.prefix:
            columns = zip(precisions, f1, limits.tolist(), label.sum(0).tolist(), strict=True)
            entries = (dict(zip(("AP", "F1", "threshold", "images"), column, strict=True)) for column in columns)
            metrics["per_class"] = dict(zip(self.classes, entries, strict=True))
        return {self.prefix + name: value for name, value in metrics.items()}

    def _unread(self, index: np.ndarray, label: np.ndarray) -> LabelRows:
        """Return rows for images that could not be read."""
        seen = np.concatenate([np.zeros(0, np.int64), *(part["index"] for part in self._parts)])
        absent = ~np.isin(index, seen)
        scores = np.full((int(absent.sum()), len(self.classes)), -1, np.float32)
        return {"index": index[absent], "label": label[absent], "score": scores, "read": np.zeros(len(scores), bool)}


def predicted_sets(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return whether each class of each image is predicted, `[N, classes]` bool: its score reaches the threshold."""
    return scores >= thresholds


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the average precision of one class, or None if no image has it.

    It is the sum of the precisions at all distinct scores, each times the gain in recall (without interpolation).

    Args:
        labels: whether each image has the class, `[N]`.
        scores: `[N]`.
    """
    if not labels.any():
        return None
    true, predicted, _ = _counts(labels, scores)
    precision, recall = true / predicted, true / true[-1]
    return float((np.diff(recall, prepend=0) * precision).sum())


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the threshold with the highest F1 of one class; the highest of several; 0.5 without examples.

    The threshold lies halfway between two scores, so that rounding of scores changes no decision.

    Args:
        labels: whether each image has the class, `[N]`.
        scores: `[N]`, 0..1; -1 for images that could not be read, which are never predicted.
    """
    readable = scores >= 0
    labels, scores = labels[readable], scores[readable]
    if not labels.any():
        return DEFAULT_THRESHOLD
    true, predicted, distinct = _counts(labels, scores)
    best = int((2 * true / (predicted + true[-1])).argmax())
    lower = distinct[best + 1] if best + 1 < len(distinct) else 0.0
    return float((float(distinct[best]) + float(lower)) / 2)


def f1_score(labels: np.ndarray, predicted: np.ndarray) -> float | None:
    """Return the F1 score of decisions, or None if nothing is true or predicted."""
    total = int(labels.sum()) + int(predicted.sum())
    return 2 * int((labels & predicted).sum()) / total if total else None


def join_names(names: Iterable[str]) -> str:
    """Join names of classes to one cell of a CSV file, with `;` between; a name with `;` stands in quotes."""
    text = io.StringIO()
    csv.writer(text, delimiter=";").writerow(names)
    return text.getvalue().removesuffix("\r\n")


def split_names(cell: str) -> list[str]:
    """Return the names of classes that `join_names` joined."""
    return next(csv.reader([cell], delimiter=";"), [])


def label_sets_csv(rows: LabelRows, names: Sequence[str], classes: Sequence[str], thresholds: np.ndarray) -> str:
    """Format `LabelSets.rows()` as CSV, one line per image.

    The columns are the image's name, its true and its predicted classes (see `join_names`), and the probability of each
    class, which is empty for an image that could not be read.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["image", "classes", "predicted", *classes])
    predicted = predicted_sets(rows["score"], thresholds)
    for row, name in enumerate(names):
        sets = (join_names(np.array(classes)[each[row]]) for each in (rows["label"], predicted))
        # All digits, so that a report and a comparison rank the images of a rare class as `compute` does.
        scores = (str(score) if rows["read"][row] else "" for score in rows["score"][row])
        writer.writerow([name, *sets, *scores])
    return text.getvalue()


def format_label_sets(results: Mapping[str, Any]) -> str:
    """Format the metrics of `LabelSets.compute()` as text: the means, then the hardest classes."""
    lines = [f"{counted(results['images'], 'image')}, several classes each"]
    for name in ("mAP", "macro_f1", "micro_f1", "exact_match"):
        if results[name] is not None:
            lines.append(f"{name:<11}  {results[name]:7.2%}")
    precisions = {name: entry["AP"] for name, entry in results["per_class"].items()}
    known = {name: value for name, value in precisions.items() if value is not None}
    hardest = sorted(known, key=known.__getitem__)[:5]
    lines.append("hardest classes (average precision): " + ", ".join(f"{name} {known[name]:.1%}" for name in hardest))
    return "\n".join(lines)


def _counts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true positives, predictions and the score at each distinct score, from the highest to the lowest."""
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], labels[order].cumsum()
    # Equal scores are decided together: keep the last place of each score.
    last = np.flatnonzero(np.append(np.diff(sorted_scores) != 0, True))
    return hits[last].astype(np.float64), last + 1.0, sorted_scores[last]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
