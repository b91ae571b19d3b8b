"""Shares of training images: nested, of all classes, of rare ones and empty images too."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import write_classes

from backbones.errors import UserError
from tools.cli.parsing import parse
from tools.engine.bad_images import BadImages
from tools.engine.options import SubsetOptions
from tools.engine.subset import draw_images, draw_objects, nested_subset, scarce
from tools.tasks.classification import ClassificationTask
from tools.tasks.detection_data import open_train, open_val
from tools.tasks.options import TrainClassifierOptions, TrainDetectorOptions, TrainSegmenterOptions
from tools.tasks.segmentation_data import open_data
from tools.tasks.subsets import chosen_row

NAMES = ("common", "usual", "rare")


def objects() -> tuple[np.ndarray, np.ndarray]:
    """200 images: all but the last 40 show class 0, a third class 1, five of those class 2 as well; 40 are empty."""
    images = np.arange(160)
    shown = [(images, 0), (images, 0), (images[::3], 1), (images[:15:3], 2)]
    return np.concatenate([rows for rows, _ in shown]), np.concatenate([np.full(len(r), c) for r, c in shown])


def share(fraction: float, seed: int = 0) -> np.ndarray:
    return nested_subset(*objects(), size=200, fraction=fraction, seed=seed, names=NAMES)


def test_a_share_takes_the_same_of_each_class_and_of_empty_images():
    images, classes = objects()
    for fraction in (0.1, 0.25, 0.5):
        places = share(fraction)
        assert np.array_equal(places, np.unique(places))
        assert np.sum(places >= 160) == 40 * fraction
        assert len(places) == pytest.approx(200 * fraction, abs=4)
        for number in range(3):
            whole = np.unique(images[classes == number])
            assert len(np.intersect1d(places, whole)) == pytest.approx(len(whole) * fraction, abs=2)


@pytest.mark.parametrize("seed", range(5))
def test_smaller_shares_lie_within_larger_ones(seed: int):
    shares = [share(fraction, seed) for fraction in (0.05, 0.1, 0.25, 0.9, 1)]
    for small, large in pairwise(shares):
        assert len(small) < len(large) and np.isin(small, large).all()
    assert np.array_equal(shares[-1], np.arange(200))
    assert np.array_equal(share(0.25, seed), shares[2]) and not np.array_equal(share(0.25, seed + 1), shares[2])


def test_rounding_takes_no_image_too_many():
    found = nested_subset(np.arange(10), np.zeros(10, np.int64), size=10, fraction=0.3, seed=0, names=("one",))
    assert len(found) == 3  # 0.3 * 10 is above 3 in binary


def test_a_class_that_no_image_is_left_of_is_named():
    """Hay is in two images each of those that show an owl and a cow, which are as rare and count first."""
    images, classes = np.array([*range(8), 0, 1, 4, 5]), np.repeat([0, 1, 2], 4)
    lost = []
    for seed in range(20):
        try:
            nested_subset(images, classes, size=8, fraction=0.25, seed=seed, names=("owl", "cow", "hay"))
        except UserError as error:
            lost.append(str(error))
    assert 0 < len(lost) < 20
    assert set(lost) == {"--fraction 0.25: leaves no image of the class hay; use a larger fraction or another --draw"}


@pytest.mark.parametrize("seed", range(3))
def test_drawn_objects_are_nested_and_exact_for_each_class(seed: int):
    _, classes = objects()
    draws = [draw_objects(classes, shots=shots, seed=seed, count=3) for shots in (2, 4, 30)]
    # Class 2 has five objects.
    assert [np.bincount(classes[drawn]).tolist() for drawn in draws] == [[2, 2, 2], [4, 4, 4], [30, 30, 5]]
    assert np.isin(draws[0], draws[1]).all() and np.isin(draws[1], draws[2]).all()
    assert not np.array_equal(draws[1], draw_objects(classes, shots=4, seed=seed + 1, count=3))
    # Another class changes nothing in the draw of the first.
    first = draw_objects(classes[classes < 1], shots=4, seed=seed, count=1)
    assert np.array_equal(np.flatnonzero(classes < 1)[first], draws[1][classes[draws[1]] == 0])


@pytest.mark.parametrize("seed", range(3))
def test_drawn_images_show_each_class_often_enough_and_are_few_and_nested(seed: int):
    """Every third of the first 160 images shows class 1, and five of these show class 2, so that they serve both."""
    images, classes = objects()
    draws = [draw_images(images, classes, shots=shots, seed=seed, count=3) for shots in (1, 2, 4, 8)]
    for drawn, shots in zip(draws, (1, 2, 4, 8), strict=True):
        shown = [len(np.intersect1d(drawn, images[classes == label])) for label in range(3)]
        assert shown[0] >= shots and shown[1] >= shots and shown[2] == min(shots, 5)
        assert len(drawn) <= shots + max(0, shots - 5)  # an image of the rarest class shows the others too
    for few, many in pairwise(draws):
        assert np.isin(few, many).all()
    # Images of one class each: exactly as many as asked.
    labels = np.repeat([0, 1], [9, 3])
    found = draw_images(np.arange(12), labels, shots=4, seed=seed, count=2)
    assert np.bincount(labels[found]).tolist() == [4, 3]
    assert scarce(labels, shots=4, names=("ant", "bee", "cat")) == {"bee": 3}


def test_shots_of_a_detector_leave_other_objects_as_ignore_regions(coco):
    coco.write()  # objects of each image: see conftest
    options = parse(TrainDetectorOptions, description="", argv=["--data", str(coco.root), "--shots", "1"])
    data = open_train(options, open_val(options))
    train = data.train
    assert train
    _, labels = train.annotations.objects(train.indices)
    everything = open_val(options).annotations  # has the same boxes
    assert np.array_equal(np.sort(labels), np.unique(everything.labels[~everything.crowd] - 1))
    kept = sum(len(train[index][1]["boxes"]) for index in range(len(train)))
    ignored = sum(len(train[index][1]["ignore"]) for index in range(len(train)))
    rows = np.isin(np.repeat(np.arange(len(everything)), np.diff(everything.offsets)), train.indices)
    assert (kept, kept + ignored) == (len(labels), int(rows.sum()))
    assert data.chosen.startswith(f"1 object of each class, draw 0: {len(train)} of ")
    options.subset.draw, options.run.seed = 0, 5
    again = open_train(options, open_val(options)).train
    assert again and np.array_equal(again.indices, train.indices)  # the draw does not depend on --seed


def test_a_detector_and_a_segmenter_train_on_a_share(coco_mini: Path):
    words = ["--data", str(coco_mini), "--fraction", "0.2"]
    options = parse(TrainDetectorOptions, description="", argv=words)
    val = open_val(options)
    train = open_train(options, val).train
    assert train
    assert len(val) == len(val.annotations)  # validation stays whole
    shown = np.unique(train.annotations.objects(train.indices)[1])
    assert np.array_equal(shown, np.unique(train.annotations.objects(np.arange(len(train.annotations)))[1]))
    assert len(train) < len(train.annotations)
    options = parse(TrainSegmenterOptions, description="", argv=[*words, "--limit", "30", "--classes", "voc"])
    data = open_data(options, BadImages(coco_mini, skip=False, seed=0))
    assert data.train
    assert len(data.train) < 30 == len(data.val) == data.choosable
    assert data.chosen == f"--fraction 0.2, draw 0: {len(data.train)} of 30 images"


def test_a_classifier_trains_on_a_share(tmp_path: Path):
    write_classes(tmp_path, count=4, classes="ab")
    options = parse(TrainClassifierOptions, description="", argv=["--data", str(tmp_path), "--fraction", "0.5"])
    source = ClassificationTask().build_data(options, BadImages(tmp_path, skip=False, seed=0))
    assert (source.train_size, source.val_size) == (4, 8)
    words = ["--data", str(tmp_path), "--shots", "3", "--full-epochs", "true", "--batch-size", "4"]
    few = parse(TrainClassifierOptions, description="", argv=words)
    source = ClassificationTask().build_data(few, BadImages(tmp_path, skip=False, seed=0))
    assert source.chosen == "3 images of each class, draw 0: 6 of 8 images"
    assert ClassificationTask().batches(few, source).steps == 2  # 8 images an epoch, not 6
    options.data.data = "https://server/shards"
    with pytest.raises(UserError, match="--shots, --train-list: cannot be used with tar shards; use class folders"):
        ClassificationTask().build_data(options, BadImages(tmp_path, skip=False, seed=0))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, None),
        ({"draw": 0}, "all images; --draw has no effect without --fraction, --shots or --train-list"),
        (
            {"draw": 1, "full_epochs": True},
            "all images; --draw and --full-epochs have no effect without --fraction, --shots or --train-list",
        ),
        ({"draw": 1, "shots": 5}, "a choice"),
    ],
)
def test_the_plan_names_options_of_a_choice_that_choose_nothing(given: dict[str, int], text: str | None):
    asked = SubsetOptions(**given)
    assert chosen_row("a choice" if asked.asked else "", asked).get("chosen") == text
