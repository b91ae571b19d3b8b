"""TODO-DOC tools/runs/classification.py."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np

from backbones.errors import UserError
from tools.runs.folder import RunFolder


@dataclass(frozen=True)
class Predictions:
    """predictions.csv as arrays over the images.

    Attributes:
        names: of the images; classes: by label.
        truth, guess: labels `[N]`; a guess of -1 is an image that could not be read.
        sure: the guess's probability `[N]`.
        rank, loss: place of the true class (0 is the first guess) and its negative log-likelihood `[N]`; None of runs
            made before these were kept.
    """

    run: RunFolder
    names: tuple[str, ...]
    classes: tuple[str, ...]
    truth: np.ndarray
    guess: np.ndarray
    sure: np.ndarray
    rank: np.ndarray | None
    loss: np.ndarray | None

    @property
    def right(self) -> np.ndarray:
        return self.truth == self.guess

    @classmethod
    def read(cls, run: RunFolder) -> Predictions:
        """Read a run's predictions.

        Raises:
            UserError: where they are missing or malformed.
        """
        path = run.folder / "predictions.csv"
        classes = tuple(run.results.get("per_class") or ())
        labels = {name: label for label, name in enumerate(classes)}
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            truth = np.array([labels[row["class"]] for row in rows], np.int64)
            guess = np.array([labels[row["predicted"]] if row["predicted"] else -1 for row in rows], np.int64)
            sure = np.array([float(row["confidence"]) for row in rows])
            kept = bool(rows) and {"rank", "loss"} <= set(rows[0])
            rank = np.array([int(row["rank"]) for row in rows]) if kept else None
            loss = np.array([float(row["loss"] or "nan") for row in rows]) if kept else None
            names = tuple(row["image"] for row in rows)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; measure again with --eval-only --resume") from None
        except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
            raise UserError(f"{path}: is not a run's predictions ({type(error).__name__}: {error})") from None
        if len(rows) != run.results["images"]:
            raise UserError(f"{path}: holds {len(rows)} images, results.json {run.results['images']}; measure again")
        return cls(run, names, classes, truth, guess, sure, rank, loss)
