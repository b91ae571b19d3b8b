"""Opens the training and validation images of a segmentation run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backbones.common.data_split import DataSplit, Side, relative_names
from backbones.common.run_files import MODEL_FILE
from backbones.common.split_options import SplitOptions
from backbones.common.stratified import ItemClasses
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from segmentation.data.dataset import LabelSource, Segmentation
from segmentation.data.folders import has_layout, has_split, open_source
from segmentation.data.unused import LabelMap, classes_in, keep_classes, used_classes
from segmentation.transforms import Augment
from tools.engine.bad_images import BadImages
from tools.engine.run_folder import BEST
from tools.processes import distributed
from tools.synthetic import shapes
from tools.tasks.builtin import built_in_data
from tools.tasks.data import Splits
from tools.tasks.options import TrainSegmenterOptions
from tools.tasks.splits import ExistingSplits, UndividedImages, decide_split, wanted_split
from tools.tasks.subsets import Chosen, choose_by_classes, choose_listed


def open_data(options: TrainSegmenterOptions, bad: BadImages) -> Splits[Segmentation]:
    """Open the validation split and, unless `--eval-only`, the training split; split the training images if asked.

    Raises:
        UserError: files are missing or malformed, or no image is left to train or to validate on.
    """
    if wanted := wanted_split(options, **_existing_splits(options)):
        return _open_undivided(wanted, options, bad)
    source = _open_source(options, "val")
    if options.run.eval_only:
        (source,) = _without_unused(options, bad, [source])
        return Splits(None, _images(options, source, "val", np.arange(len(source))))
    train, source = _without_unused(options, bad, [_open_source(options, "train"), source])
    val = _images(options, source, "val", np.arange(len(source)))
    return _with_train(options, train, np.arange(len(train)), val)


def _without_unused(
    options: TrainSegmenterOptions, bad: BadImages, sources: Sequence[LabelSource]
) -> Sequence[LabelSource]:
    """Drop the classes that no pixel has, except those that the model to evaluate or to resume was trained on."""
    trained, names = _trained_classes(options, bad.record.parent), sources[0].classes.names
    same = all(len(source.classes) == len(names) for source in sources)  # else building the model refuses them
    keeps_all = options.data.categories().keep_unused or (options.run.eval_only and not trained)
    if not same or keeps_all or set(names) <= {*trained}:
        return sources
    used = used_classes(sources, _read_together)
    if trained:
        used |= {number for number, name in enumerate(names) if name in trained}
    return sources if len(used) == 1 else [keep_classes(source, used) for source in sources]


def _read_together(maps: Sequence[LabelMap]) -> set[int]:
    """Return the classes in some label maps, of which every process reads a part."""
    mine = maps[distributed.rank() :: distributed.world_size()]
    return set().union(*distributed.all_gather(distributed.on_all(lambda: classes_in(mine))))


def _trained_classes(options: TrainSegmenterOptions, folder: Path) -> Sequence[str]:
    """Return the classes of the model that is evaluated or resumed; () if there is none or its file does not say."""
    if not options.run.resume and not options.run.eval_only:
        return ()
    files = [folder / MODEL_FILE, folder / BEST] if options.run.resume else [resolve(options.model.weights)]
    return next((tuple(names) for file in files if (names := read_meta(file).get("classes"))), ())


def _existing_splits(options: TrainSegmenterOptions) -> ExistingSplits:
    """Return which splits the data have, and the name of the data."""
    data, how = options.data, "--val-split"
    if data.data is None:
        return ExistingSplits(has_train=True, has_val=True, where="the built-in data set of shapes", how=how)
    found = {f"has_{side}": has_split(Path(data.data), getattr(data, f"{side}_split")) for side in ("train", "val")}
    if options.split.asked and not has_layout(Path(data.data)):
        found["has_val"] = False  # dividing the data opens them, and the error tells what is wrong
    return ExistingSplits(has_train=found["has_train"], has_val=found["has_val"], where=f"--data {data.data}", how=how)


def _open_undivided(wanted: SplitOptions, options: TrainSegmenterOptions, bad: BadImages) -> Splits[Segmentation]:
    """Open data without a validation split, and split the training images."""
    (source,) = _without_unused(options, bad, [_open_source(options, "train")])
    whole = Segmentation(source, Augment("eval"))
    files = [source.file(row) for row in range(len(source))]
    names, classes = relative_names(files), source.classes.names

    def shown() -> ItemClasses:
        images, labels = np.nonzero(pixel_counts(whole))
        return ItemClasses(images, labels, len(classes))

    split = decide_split(wanted, options, UndividedImages(names, files, classes, shown), bad)
    val = _images(options, source, "val", split.rows(names, "val"))
    if options.run.eval_only:
        return Splits(None, val, split)
    return _with_train(options, source, split.rows(names, "train"), val, split)


def _open_source(options: TrainSegmenterOptions, split: Side) -> LabelSource:
    data = options.data
    root = built_in_data(shapes.prepare, options.run, options.model.weights) if data.data is None else Path(data.data)
    return open_source(root, split, data)


def _images(options: TrainSegmenterOptions, source: LabelSource, split: Side, rows: np.ndarray) -> Segmentation:
    """Return the dataset of the images at `rows` of a source, as far as `--limit` allows.

    Training images are augmented; validation images are not.
    """
    data = options.data
    indices = rows[: data.limit]
    if split == "val":
        return Segmentation(source, Augment("eval"), indices=indices)
    augment = Augment(data.augment, data.crop_size, data.scales, seed=options.run.seed)
    return Segmentation(source, augment, indices=indices)


def _with_train(
    options: TrainSegmenterOptions,
    source: LabelSource,
    rows: np.ndarray,
    val: Segmentation,
    split: DataSplit | None = None,
) -> Splits[Segmentation]:
    """Return both splits, with the training images among `rows` of a source that the options choose."""
    asked, size, note = options.subset, len(rows[: options.data.limit]), ""
    if asked.train_list:
        size = len(rows)
        listed = choose_listed(options, relative_names([source.file(row) for row in rows.tolist()]))
        rows, note = rows[listed.rows], listed.note
    elif asked.asked:
        chosen = _chosen(options, Segmentation(source, Augment("eval"), indices=rows[: options.data.limit]))
        rows, note = rows[chosen.rows], chosen.note
    return Splits(_images(options, source, "train", rows), val, split, note, size)


def _chosen(options: TrainSegmenterOptions, data: Segmentation) -> Chosen:
    """Return the training images that `--fraction` or `--shots` selects by the classes in each image."""
    images, classes = np.nonzero(pixel_counts(data))
    return choose_by_classes(options, images, classes, size=len(data), names=data.source.classes.names)


def pixel_counts(data: Segmentation) -> np.ndarray:
    """Count the pixels of each class in each image, `[N, K]`. Every process reads a part of the label maps."""
    mine = range(distributed.rank(), len(data), distributed.world_size())
    parts = distributed.all_gather(distributed.on_all(lambda: data.pixel_counts(mine)))
    counts = np.empty((len(data), len(data.source.classes)), np.int64)
    for rank, part in enumerate(parts):
        counts[rank :: len(parts)] = part
    return counts
