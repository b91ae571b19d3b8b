"""Opens the training and validation images of a detection run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from backbones.common.split_options import SplitOptions
from backbones.common.stratified import ItemClasses
from backbones.errors import UserError
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from detection.data.annotations import CocoAnnotations
from detection.data.dataset import CocoDetection, select
from detection.data.folders import has_layout, offers_split, read_annotations
from detection.options import DetectionDataOptions
from detection.transforms import Augment
from tools.engine.bad_images import BadImages
from tools.engine.run_folder import BEST, MODEL
from tools.engine.subset import nested_subset
from tools.processes import distributed
from tools.synthetic import shapes
from tools.tasks.data import Splits
from tools.tasks.options import TrainDetectorOptions
from tools.tasks.splits import ExistingSplits, UndividedImages, decide_split, wanted_split


def open_data(options: TrainDetectorOptions, bad: BadImages) -> Splits[CocoDetection]:
    """Open the validation split and, unless `--eval-only`, the training split; split the training images if asked.

    Raises:
        UserError: files are missing or malformed, or no image is left to train or to validate on.
    """
    if wanted := wanted_split(options, **_existing_splits(options)):
        return _without_unused(_open_undivided(wanted, options, bad), options, bad)
    val = open_val(options)
    return _without_unused(Splits(None if options.run.eval_only else open_train(options, val), val), options, bad)


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
    return Splits(train, val, data.split)


def trained_categories(options: TrainDetectorOptions, folder: Path) -> tuple[str, ...]:
    """Return the names of the categories that the model to evaluate was trained on; () if its file does not say.

    Args:
        folder: the run folder, whose model is evaluated with `--resume`.
    """
    files = [folder / MODEL, folder / BEST] if options.run.resume else [resolve(options.model.weights)]
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
    val = _val_images(options, whole, split.rows(names, "val"))
    train = None if options.run.eval_only else _train_images(options, whole, split.rows(names, "train"))
    return Splits(train, val, split)


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
    return CocoDetection(val, Augment("eval"), indices=chosen, bits=options.data.bits)


def open_train(options: TrainDetectorOptions, val: CocoDetection) -> CocoDetection:
    """Open the training split of a detection run.

    Raises:
        UserError: its categories are not those of the validation split, no image is left, or no image has a box.
    """
    train = _annotations(options, "train")
    train.categories.require_same(val.annotations.categories, here=str(train.path), there=str(val.annotations.path))
    return _train_images(options, train)


def _train_images(
    options: TrainDetectorOptions, train: CocoAnnotations, among: np.ndarray | None = None
) -> CocoDetection:
    data = options.data
    indices = select(train, limit=data.limit, negatives=data.negatives, among=among)
    if not len(indices):
        raise UserError(
            f"{train.path}: no image is left to train on, because none of the chosen images has an "
            "object; add annotations, or choose other images"
        )
    # Keep --fraction of the images, of each class alike.
    images, classes = train.objects(indices)
    if not len(images):
        raise UserError(
            f"{train.path}: no image of the training split has a box, so that there is nothing to learn; check the "
            "labels and the names of their files"
        )
    kept = nested_subset(
        images,
        classes,
        size=len(indices),
        fraction=options.train.fraction,
        seed=options.run.seed,
        names=train.categories.names,
    )
    model = options.model
    augment = Augment(
        data.augment,
        tuple(data.short_sides or ()),
        options.run.seed,
        model_sizes=(model.min_size, model.max_size),
        masks=model.masks,
    )
    return CocoDetection(train, augment, indices=indices[kept], bits=data.bits)


def _annotations(options: TrainDetectorOptions, split: Literal["train", "val"]) -> CocoAnnotations:
    """Read the annotations of a split, from the built-in shapes if no data is given."""
    data: DetectionDataOptions = options.data
    if data.data is None and data.annotations is None and getattr(data, f"{split}_annotations") is None:
        _refuse_shapes(data, split)
        data = replace(data, data=str(distributed.on_main(shapes.prepare)))
    absent: Literal["keep", "error"] = "keep" if options.run.on_bad_image == "skip" else "error"
    return read_annotations(data, split, absent_images=absent, masks=options.model.masks, categories=options.categories)


def _refuse_shapes(data: DetectionDataOptions, split: str) -> None:
    """Refuse to take one split from a file of the user and the other one from the built-in shapes."""
    other = "val" if split == "train" else "train"
    if getattr(data, f"{other}_annotations") is not None:
        raise UserError(
            f"--{other}-annotations: needs the {split} split as well; pass --{split}-annotations and --{split}-images"
            + (", or use --eval-only" if split == "train" else "")
        )
