"""Reads the predictions of a classification run: predictions.csv as arrays."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.common.datasets import SPLIT_NAMES
from backbones.errors import UserError, counted
from tools.runs.folder import RunFolder
from tools.synthetic import crops


@dataclass(frozen=True)
class ClassPredictions:
    """The predictions of a classification run on its N validation images.

    Attributes:
        names: names of the images, relative to the folder of their split.
        classes: names of the classes by label.
        truth: true labels `[N]`.
        predicted: labels `[N]` of the most probable class; -1 for an image that could not be read.
        confidence: probability `[N]` of the predicted class.
        rank: rank `[N]` of the true class by probability, from 0; None if an older run did not record it.
        loss: negative log-likelihood `[N]` of the true class; None if an older run did not record it.
    """

    run: RunFolder
    names: tuple[str, ...]
    classes: tuple[str, ...]
    truth: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray | None
    loss: np.ndarray | None

    @property
    def correct(self) -> np.ndarray:
        """Whether the predicted class of each image is the true class, `[N]` bool."""
        return self.truth == self.predicted

    @property
    def readable(self) -> np.ndarray:
        """Whether each image could be read, `[N]` bool. Unreadable images count as errors."""
        return self.predicted >= 0

    @property
    def digest(self) -> object:
        """Value that is equal for two runs if and only if they were evaluated on the same images and classes."""
        return self.classes, self.names, self.truth.tobytes()

    @classmethod
    def read(cls, run: RunFolder) -> ClassPredictions:
        """Read the predictions of a run.

        Raises:
            UserError: if the file is missing or malformed, or does not hold the images of results.json.
        """
        path = run.folder / "predictions.csv"
        if run.is_multi_label:
            raise UserError(f"{path}: holds several classes an image; chapters on single classes do not apply to it")
        classes = run.classes
        labels = {name: label for label, name in enumerate(classes)}
        rows = _read_rows(path)
        try:
            truth = np.array([labels[row["class"]] for row in rows], np.int64)
            predicted = np.array([labels[row["predicted"]] if row["predicted"] else -1 for row in rows], np.int64)
            confidence = np.array([float(row["confidence"]) for row in rows])
            has_loss = bool(rows) and {"rank", "loss"} <= set(rows[0])
            rank = np.array([int(row["rank"]) for row in rows], np.int64) if has_loss else None
            loss = np.array([float(row["loss"] or "nan") for row in rows]) if has_loss else None
            names = tuple(row["image"] for row in rows)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise malformed_predictions(path, error) from None
        require_all_images(run, path, len(rows))
        return cls(run, names, classes, truth, predicted, confidence, rank, loss)


def image_root(run: RunFolder, names: Sequence[str], data: str | None) -> Path | None:
    """Return the folder to which the image names in a run's predictions.csv are relative; None if it does not exist."""
    first = names[:1]
    root = run.data_root(data)
    if root is None:
        root = crops.prepare()
    # Paths are relative to the folder of the split, or to that of a CSV file or of class folders without splits.
    root = root.parent if root.is_file() else root
    splits = [str(run.config.get("val_split") or "val"), *SPLIT_NAMES["val"], "test", "train"]
    folders = [folder for folder in (*(root / split for split in splits), root) if folder.is_dir()]
    holding = (folder for folder in folders if first and (folder / first[0]).is_file())
    return next(holding, folders[0] if folders else None)


def _read_rows(path: Path) -> list[dict[str, str]]:
    header, *rows = read_table(path) or [[]]
    return [dict(zip(header, row, strict=False)) for row in rows]


def read_table(path: Path) -> list[list[str]]:
    """Read the rows of a file of predictions; the first one holds the names of the columns.

    Raises:
        UserError: if the file is missing or is no CSV file.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; write it by evaluating the run again with --eval-only --resume"
        ) from None
    except (OSError, ValueError, csv.Error) as error:
        raise malformed_predictions(path, error) from None


def require_all_images(run: RunFolder, path: Path, count: int) -> None:
    """Refuse a file of predictions of other images than those of results.json."""
    if count != run.results["images"]:
        raise UserError(
            f"{path}: holds {counted(count, 'image')}, but results.json has {run.results['images']}; evaluate again "
            "with --eval-only --resume"
        )


def malformed_predictions(path: Path, error: Exception) -> UserError:
    """Return the error of a file of predictions that cannot be parsed."""
    what = f"is not a file of predictions ({type(error).__name__}: {error})"
    return UserError(f"{path}: {what}; evaluate again with --eval-only --resume")
