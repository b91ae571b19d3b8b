"""Chooses the training images of a run that `--fraction`, `--shots` or `--train-list` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backbones.errors import UserError, counted, first_names
from tools.engine.options import SubsetOptions, TaskOptions
from tools.engine.subset import draw_images, nested_subset, scarce
from tools.engine.train_list import TrainList


@dataclass(frozen=True)
class Chosen:
    """A choice among the training images.

    Attributes:
        rows: indices of the chosen images among the given images `[M]`, ascending.
        note: what was chosen, for the plan; "" for all images.
    """

    rows: np.ndarray
    note: str = ""


def draw_seed(options: TaskOptions) -> int:
    """Return the seed of the choice of the training images."""
    return options.run.seed if options.subset.draw is None else options.subset.draw


def choose_listed(options: TaskOptions, names: Sequence[str]) -> Chosen:
    """Return the images that `--train-list` lists, by their file names.

    Raises:
        UserError: the list cannot be read, names unknown images, or holds positions.
    """
    asked = options.subset
    if asked.list_positions:
        raise UserError("--list-positions: only for boxes, whose images have ids; list file names instead")
    listed = TrainList.read(asked)
    return Chosen(listed.rows(names), describe(listed.describe(asked), len(listed.entries), len(names)))


def choose_by_classes(
    options: TaskOptions, images: np.ndarray, classes: np.ndarray, *, size: int, names: Sequence[str]
) -> Chosen:
    """Return the images that `--fraction` or `--shots` selects by the classes that they show.

    Args:
        images: index of the image of each object, or of each pair of an image and a class that it shows, `[M]`.
        classes: class of each `[M]`.
        size: number of all images.
        names: the class names.

    Raises:
        UserError: a fraction contains no image of some class.
    """
    asked, seed = options.subset, draw_seed(options)
    if asked.shots is None:
        rows = nested_subset(images, classes, size=size, fraction=asked.fraction, seed=seed, names=names)
        return Chosen(rows, describe(f"{asked.asked}, draw {seed}", len(rows), size) if asked.fraction < 1 else "")
    rows = draw_images(images, classes, shots=asked.shots, seed=seed, count=len(names))
    shown = np.unique(np.stack([images, classes], 1), axis=0)[:, 1]
    what = f"{counted(asked.shots, 'image')} of each class, draw {seed}"
    few = scarce(shown, shots=asked.shots, names=names)
    return Chosen(rows, describe(what, len(rows), size) + fewer(few, "image"))


def describe(what: str, chosen: int, size: int) -> str:
    """Return a line of the plan: what was chosen, and how many of all images."""
    return f"{what}: {chosen} of {counted(size, 'image')}"


def fewer(few: Mapping[str, int], noun: str) -> str:
    """Return a warning of the classes that have fewer examples than shots."""
    if not few:
        return ""
    shown = first_names([f"{name} has {counted(number, noun)}" for name, number in few.items()], 3)
    return f"; WARNING: classes with fewer: {shown}"


def chosen_row(note: str, asked: SubsetOptions) -> dict[str, str]:
    """Return the row of the plan that says which training images were chosen; {} for all images.

    For all images, the row names the options that have no effect without a choice.
    """
    idle = {"--draw": asked.draw is not None, "--full-epochs": asked.full_epochs}
    if not asked.asked and (given := [name for name, is_given in idle.items() if is_given]):
        which = f"{' and '.join(given)} {'has' if len(given) == 1 else 'have'} no effect"
        return {"chosen": f"all images; {which} without --fraction, --shots or --train-list"}
    return {"chosen": note} if note else {}


def full_repeats(options: TaskOptions, repeats: np.ndarray | None, *, chosen: int, of: int) -> np.ndarray | None:
    """Return how often an epoch uses each image, `[chosen]`, so that `--full-epochs` has `of` images an epoch.

    Args:
        repeats: how often an epoch uses each image without this option; None for once.
        chosen: number of chosen images.
        of: number of images without a choice.
    """
    if not options.subset.full_epochs or not 0 < chosen < of:
        return repeats
    return (np.ones(chosen) if repeats is None else repeats) * (of / chosen)
