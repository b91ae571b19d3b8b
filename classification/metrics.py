"""Computes top-1 and top-5 accuracy, with the same result for any number of processes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from backbones.errors import counted

# One row per image, as columns by name.
COLUMNS = ("index", "label", "rank", "predicted", "confidence", "loss")
Rows: TypeAlias = dict[str, np.ndarray]


class TopK:
    """Accumulates one row per image and computes metrics at the end. So the results do not depend on the processes.

    Args:
        classes: names by label.
        prefix: text before the names of the metrics, such as "train_".
        expected: indices `[N]` and labels `[N]` of all images to evaluate; images without a prediction, because they
            cannot be read, count as wrong. None evaluates the images that are added.
        present: labels `[P]` of the classes that have images, if some classes have none; the accuracy among these
            classes is added. None if all classes have images.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        prefix: str = "",
        expected: tuple[np.ndarray, np.ndarray] | None = None,
        present: np.ndarray | None = None,
    ) -> None:
        self.classes, self.prefix, self.expected = tuple(classes), prefix, expected
        some = present is not None and len(present) < len(self.classes)
        self.present = torch.from_numpy(np.asarray(present)) if some else None
        self._parts: list[Rows] = []

    def update(self, probabilities: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Add a batch of probabilities `[N, classes]` with targets `label` `[N]` and `index` `[N]`."""
        scores = probabilities.float().cpu()
        labels = targets["label"].cpu()
        own = scores.gather(1, labels[:, None])
        best = scores.max(1)
        part = {
            "index": targets["index"].cpu(),
            "label": labels,
            "rank": _rank(scores, own, labels),
            "predicted": best.indices,
            "confidence": best.values,
            "loss": -torch.log(own[:, 0].clamp(min=1e-12)),
        }
        if self.present is not None:
            among = torch.full_like(scores, -1.0)
            among[:, self.present] = scores[:, self.present]
            part["rank_present"] = _rank(among, own, labels)
        self._parts.append({name: value.numpy() for name, value in part.items()})

    def state(self) -> list[Rows]:
        """Return the rows of this process, which can be pickled and passed to `merge`."""
        return self._parts

    def merge(self, states: Iterable[list[Rows]]) -> None:
        """Replace the rows by those of all processes."""
        self._parts = [part for state in states for part in state]

    def rows(self) -> Rows:
        """Return one row per image, in the split's order: index, label, rank, predicted, confidence, loss.

        `rank` is the number of classes before the true one. An image without a prediction has the predicted class -1
        and the loss NaN.
        """
        parts = self._parts if self.expected is None else [*self._parts, self._unread(*self.expected)]
        if not parts:
            return {name: np.zeros(0) for name in (*COLUMNS, *(["rank_present"] if self.present is not None else []))}
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(rows["index"], kind="stable")
        return {name: values[order] for name, values in rows.items()}

    def compute(self) -> dict[str, object]:
        """Compute `top1`, `top5` (0..1), `nll` (mean negative log-likelihood), `images` and `per_class`.

        `per_class` maps the name of each class to its `recall` and its number of `images`.

        `balanced_accuracy` is the mean recall of the classes with images, and `macro_f1` the mean F1 of the classes
        that are true or predicted somewhere; both count every class alike, whatever its number of images.

        If some classes have no images, `top1_present` is the accuracy where predictions are limited to the others, and
        `classes_present` their number.

        A value is None if there is nothing to measure: the recall of a class without images, `top5` with at most five
        classes, and an `nll` that is NaN. With a prefix there is no `per_class`.
        """
        rows = self.rows()
        hit, label = rows["rank"] < 1, rows["label"]
        metrics: dict[str, object] = {
            "top1": _mean(hit),
            "top5": _mean(rows["rank"] < 5) if len(self.classes) > 5 else None,
            "nll": _mean(rows["loss"][rows["predicted"] >= 0].astype(np.float64)),
            "images": len(hit),
            **balanced(label, rows["predicted"], len(self.classes)),
        }
        if self.present is not None:
            metrics |= {"top1_present": _mean(rows["rank_present"] < 1), "classes_present": len(self.present)}
        if not self.prefix:
            own = [hit[label == i] for i in range(len(self.classes))]
            metrics["per_class"] = {
                name: {"recall": _mean(right), "images": len(right)}
                for name, right in zip(self.classes, own, strict=True)
            }
        return {self.prefix + name: value for name, value in metrics.items()}

    def _unread(self, index: np.ndarray, label: np.ndarray) -> Rows:
        """Return rows for images that could not be read.

        In these rows, the true class ranks after all other classes.
        """
        seen = np.concatenate([np.zeros(0, np.int64), *(part["index"] for part in self._parts)])
        absent = ~np.isin(index, seen)
        count = int(absent.sum())
        rows = {
            "index": index[absent],
            "label": label[absent],
            "rank": np.full(count, len(self.classes)),
            "predicted": np.full(count, -1),
            "confidence": np.zeros(count, np.float32),
            "loss": np.full(count, np.nan, np.float32),
        }
        return rows if self.present is None else {**rows, "rank_present": rows["rank"]}


def balanced(label: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float | None]:
    """Return `balanced_accuracy` and `macro_f1` (0..1), or None without images.

    Args:
        label, predicted: class numbers `[N]`; -1 predicted for an image that could not be read.
        classes: number of classes.
    """
    true = np.bincount(label.astype(np.int64), minlength=classes)
    found = np.bincount(predicted[predicted >= 0].astype(np.int64), minlength=classes)
    hits = np.bincount(label[label == predicted].astype(np.int64), minlength=classes)
    present, involved = true > 0, true + found > 0
    return {
        "balanced_accuracy": _mean(hits[present] / true[present]),
        "macro_f1": _mean(2 * hits[involved] / (true + found)[involved]),
    }


def predictions_csv(rows: Rows, names: Sequence[str], classes: Sequence[str]) -> str:
    """Format `TopK.rows()` as CSV, one line per image.

    The columns are the image's name, its true class, the predicted class and its probability, the rank of the true
    class (0: predicted first) and its negative log-likelihood. An image that could not be read has no predicted class
    and no loss.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["image", "class", "predicted", "confidence", "rank", "loss"])
    columns = zip(*(rows[key] for key in ("label", "predicted", "confidence", "rank", "loss")), strict=True)
    for name, (label, predicted, confidence, rank, loss) in zip(names, columns, strict=True):
        guess = classes[predicted] if predicted >= 0 else ""
        shown = "" if math.isnan(loss) else f"{loss:.4f}"
        writer.writerow([name, classes[label], guess, f"{confidence:.4f}", int(rank), shown])
    return text.getvalue()


def format_table(results: Mapping[str, Any]) -> str:
    """Format the metrics of `TopK.compute()` as text: accuracy, error and the hardest classes."""
    lines = [counted(results["images"], "image")]
    for name in ("top1", "top5"):
        if results[name] is not None:
            lines.append(f"{name}  {results[name]:7.2%}   error {1 - results[name]:7.2%}")
    if results.get("top1_present") is not None:
        present = counted(results["classes_present"], "class")
        lines.append(f"top1  {results['top1_present']:7.2%}   among the {present} with images")
    recalls = {name: entry["recall"] for name, entry in results["per_class"].items()}
    known = {name: value for name, value in recalls.items() if value is not None}
    hardest = sorted(known, key=known.__getitem__)[:5]
    lines.append("hardest classes: " + ", ".join(f"{name} {known[name]:.1%}" for name in hardest))
    if results["balanced_accuracy"] is not None:
        lines.append(f"balanced accuracy {results['balanced_accuracy']:.2%}, macro F1 {results['macro_f1']:.2%}")
    return "\n".join(lines)


def _rank(scores: Tensor, own: Tensor, labels: Tensor) -> Tensor:
    """Return for each row the number of classes ranked before the true one `[N]`. Equal scores rank by class number.

    Scores in bf16 are often equal, and counting all equal ones as errors would cost tenths of a percent. Rows with NaN
    rank the true class last.
    """
    earlier = torch.arange(scores.shape[1]) < labels[:, None]
    before = ((scores > own) | ((scores == own) & earlier)).sum(1)
    return torch.where(scores.isnan().any(1), scores.shape[1] - 1, before)


def _mean(values: np.ndarray) -> float | None:
    """Return the mean of values, or None instead of NaN, which JSON does not have."""
    mean = float(values.mean()) if len(values) else math.nan
    return None if math.isnan(mean) else mean
