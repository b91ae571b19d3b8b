"""Opens the training and validation images of a detection run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from backbones.common.run_files import MODEL_FILE
from backbones.common.split_options import SplitOptions
from backbones.common.stratified import ItemClasses
from backbones.errors import UserError, counted
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from detection.data.annotations import CocoAnnotations
from detection.data.dataset import CocoDetection, select
from detection.data.folders import has_layout, offers_split, read_annotations
from detection.options import DetectionDataOptions
from detection.transforms import Augment
from tools.engine.bad_images import BadImages
from tools.engine.run_folder import BEST
from tools.engine.subset import draw_objects, scarce
from tools.engine.train_list import TrainList
from tools.synthetic import shapes
from tools.tasks.builtin import built_in_data
from tools.tasks.data import Splits
from tools.tasks.options import TrainDetectorOptions
from tools.tasks.splits import ExistingSplits, UndividedImages, decide_split, wanted_split
from tools.tasks.subsets import choose_by_classes, describe, draw_seed, fewer


def open_data(options: TrainDetectorOptions, bad: BadImages) -> Splits[CocoDetection]:
    """Open the validation split and, unless `--eval-only`, the training split; split the training images if asked.

    Raises:
        UserError: files are missing or malformed, or no image is left to train or to validate on.
    """
    if not options.run.eval_only:
        _augment(options)  # a wrong list of steps is refused before the data are read, which may take long
    if wanted := wanted_split(options, **_existing_splits(options)):
        return _without_unused(_open_undivided(wanted, options, bad), options, bad)
    val = open_val(options)
    data = Splits(None, val) if options.run.eval_only else open_train(options, val)
    return _without_unused(data, options, bad)


def _without_unused(
    data: Splits[CocoDetection], options: TrainDetectorOptions, bad: BadImages
) -> Splits[CocoDetection]:
    """Drop the categories that no object has. An evaluation drops those that the model was not trained on."""
    every = data.val.annotations.categories
    labels = np.concatenate([split.annotations.labels for split in (data.train, data.val) if split])
    used = {every.ids[label - 1] for label in np.unique(labels).tolist()}
    if data.train is None:
        trained = trained_categories(options, bad.record.parent)
        kept = [key for key, name in zip(every.ids, every.names, strict=True) if name in trained or key in used]
        kept = kept if trained else list(every.ids)
    else:
        kept = list(every.ids) if options.categories.keep_unused or not used else sorted(used)
    train, val = (
        split and split.with_annotations(split.annotations.without_unused(kept)) for split in (data.train, data.val)
    )
    assert val is not None
    return replace(data, train=train, val=val)


def trained_categories(options: TrainDetectorOptions, folder: Path) -> tuple[str, ...]:
    """Return the names of the categories that the model to evaluate was trained on; () if its file does not say.

    Args:
        folder: the run folder, whose model is evaluated with `--resume`.
    """
    files = [folder / MODEL_FILE, folder / BEST] if options.run.resume else [resolve(options.model.weights)]
    return next((tuple(names) for file in files if (names := read_meta(file).get("category_names"))), ())


def _open_undivided(wanted: SplitOptions, options: TrainDetectorOptions, bad: BadImages) -> Splits[CocoDetection]:
    """Open data without a validation split, and split the training images.

    Raises:
        UserError: no image is left to train or to validate on, or a recorded image is not in the data.
    """
    whole = _annotations(options, "train")
    names = whole.file_names.tolist()
    images = UndividedImages(
        names,
        [whole.folder / name for name in names],
        whole.categories.names,
        lambda: ItemClasses(*whole.objects(np.arange(len(whole))), count=len(whole.categories)),
    )
    split = decide_split(wanted, options, images, bad)
    listed = np.union1d(split.rows(names, "train"), split.rows(names, "val"))
    if len(listed) < len(whole):  # the data have grown since the run began
        whole = whole.with_images(listed)
        names = whole.file_names.tolist()
    val = _val_images(options, whole, split.rows(names, "val"))
    if options.run.eval_only:
        return Splits(None, val, split)
    return replace(_with_train(options, val, whole, split.rows(names, "train")), split=split)


def _existing_splits(options: TrainDetectorOptions) -> ExistingSplits:
    """Return which splits the data have, and the name of the data."""
    data = options.data
    names = {"train": data.train_split, "val": data.val_split}
    files = {"train": data.train_annotations or data.annotations, "val": data.val_annotations}
    if data.data is None:
        shapes = not any(files.values())
        option = "--train-annotations" if data.train_annotations else "--annotations"
        where = "the built-in data set of shapes" if shapes else f"{option} {files['train']}"
        return ExistingSplits(
            has_train=shapes or files["train"] is not None,
            has_val=shapes or files["val"] is not None,
            where=where,
            how="--val-annotations",
        )
    root = Path(data.data)
    found = {side: file is not None or offers_split(root, names[side], data.layout) for side, file in files.items()}
    return ExistingSplits(
        has_train=found["train"],
        # If the data have no layout, dividing them opens them, and the error tells what is wrong.
        has_val=found["val"] and not (options.split.asked and not has_layout(root, data.layout)),
        where=f"--data {data.data}",
        how="--val-split or --val-annotations",
    )


def open_val(options: TrainDetectorOptions) -> CocoDetection:
    """Open the validation split of a detection run."""
    return _val_images(options, _annotations(options, "val"))


def _val_images(options: TrainDetectorOptions, val: CocoAnnotations, among: np.ndarray | None = None) -> CocoDetection:
    chosen = select(val, limit=options.data.limit, among=among)
    return CocoDetection(
        val, Augment("eval"), indices=chosen, bits=options.data.bits, boxes_only=not options.model.masks
    )


def open_train(options: TrainDetectorOptions, val: CocoDetection) -> Splits[CocoDetection]:
    """Open the training split of a detection run beside its validation split.

    Raises:
        UserError: its categories are not those of the validation split, no image is left, or no image has a box.
    """
    train = _annotations(options, "train")
    train.categories.require_same(val.annotations.categories, here=str(train.path), there=str(val.annotations.path))
    return _with_train(options, val, train)


def _with_train(
    options: TrainDetectorOptions, val: CocoDetection, train: CocoAnnotations, among: np.ndarray | None = None
) -> Splits[CocoDetection]:
    """Return both splits, with the training images that the options choose."""
    asked, data = options.subset, options.data
    among, note = (among, "") if asked.train_list is None else _listed(options, train, among)
    indices = select(train, limit=data.limit, negatives=data.negatives, among=among)
    if not len(indices):
        raise UserError(
            f"{train.path}: no image is left to train on, because none of the chosen images has an "
            "object; add annotations, or choose other images"
        )
    images, classes = train.objects(indices)
    if not len(images):
        raise UserError(
            f"{train.path}: no image of the training split has a box, so that there is nothing to learn; check the "
            "labels and the names of their files"
        )
    size, names = len(indices), train.categories.names
    if asked.shots:
        train, indices, note = _shots(options, train, indices)
    elif asked.fraction < 1:
        chosen = choose_by_classes(options, images, classes, size=size, names=names)
        indices, note = indices[chosen.rows], chosen.note
    return Splits(_train_images(options, train, indices), val, None, note, size)


def _listed(options: TrainDetectorOptions, train: CocoAnnotations, among: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Return the indices of the images that `--train-list` lists, and what was chosen for the plan."""
    asked = options.subset
    listed, given = TrainList.read(asked), np.arange(len(train)) if among is None else among
    if asked.list_positions:
        rows = listed.rows_at(given[~train.empty()[given]])
    else:
        rows = given[listed.rows(train.file_names[given].tolist(), train.image_ids[given].tolist())]
    return rows, describe(listed.describe(asked), len(rows), len(given))


def _shots(
    options: TrainDetectorOptions, train: CocoAnnotations, indices: np.ndarray
) -> tuple[CocoAnnotations, np.ndarray, str]:
    """Select `--shots` objects of each class; turn the other objects of their images into ignore regions.

    Returns:
        The annotations, the indices of the images of the selected objects, and what was chosen for the plan.
    """
    shots, seed, names = options.subset.shots or 0, draw_seed(options), train.categories.names
    images, classes = train.objects(indices)
    drawn = draw_objects(classes, shots=shots, seed=seed, count=len(names))
    rows = indices[np.unique(images[drawn])]
    boxes = train.boxes_of(indices)[drawn]
    ignored = int(np.isin(images, images[drawn]).sum()) - len(drawn)
    what = describe(f"{counted(shots, 'object')} of each class, draw {seed}", len(rows), len(indices))
    what += f", {counted(ignored, 'other object')} of them ignored"
    few = fewer(scarce(classes, shots=shots, names=names), "object")
    return train.with_objects(boxes), rows, what + few


def _train_images(options: TrainDetectorOptions, train: CocoAnnotations, indices: np.ndarray) -> CocoDetection:
    """Return the dataset of the images at `indices`, with augmentation."""
    data, augment = options.data, _augment(options)
    if augment.pastes and not (train.masks and len(train.masks.text)):
        raise UserError(
            f"--augment {data.augment}: copy_paste needs masks, but no object of {train.path} has one; leave the step "
            "out, or use data with masks"
        )
    return CocoDetection(train, augment, indices=indices, bits=data.bits, boxes_only=not options.model.masks)


def _augment(options: TrainDetectorOptions) -> Augment:
    """Return the augmentation of the training images."""
    data, model = options.data, options.model
    return Augment(
        data.augment,
        tuple(data.short_sides or ()),
        options.run.seed,
        model_sizes=(model.min_size, model.max_size),
        masks=model.masks,
    )


def _annotations(options: TrainDetectorOptions, split: Literal["train", "val"]) -> CocoAnnotations:
    """Read the annotations of a split, from the built-in shapes if no data is given."""
    data: DetectionDataOptions = options.data
    if data.data is None and data.annotations is None and getattr(data, f"{split}_annotations") is None:
        _refuse_shapes(data, split)
        data = replace(data, data=str(built_in_data(shapes.prepare, options.run, options.model.weights)))
    absent: Literal["keep", "error"] = "keep" if options.run.on_bad_image == "skip" else "error"
    masks: bool | Literal["where present"] = options.model.masks
    if not masks and not options.run.eval_only and _augment(options).pastes:
        masks = "where present"
    return read_annotations(data, split, absent_images=absent, masks=masks, categories=options.categories)


def _refuse_shapes(data: DetectionDataOptions, split: str) -> None:
    """Refuse to take one split from a file of the user and the other one from the built-in shapes."""
    other = "val" if split == "train" else "train"
    if getattr(data, f"{other}_annotations") is not None:
        raise UserError(
            f"--{other}-annotations: needs the {split} split as well; pass --{split}-annotations and --{split}-images"
            + (", or use --eval-only" if split == "train" else "")
        )
