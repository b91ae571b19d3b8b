"""Splits of data without a validation split: stratified, grouped, and the same in every order of the files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from backbones.common.data_split import DataSplit, split_images
from backbones.common.near_equal import hash_files, image_hash, near_groups, near_pairs
from backbones.common.split_options import SplitOptions
from backbones.common.stratified import ALWAYS_TRAINED, ItemClasses, divide
from backbones.errors import UserError

CLASSES = ("common", "usual", "rare")


def images(count: int = 200) -> tuple[list[str], ItemClasses]:
    """Return names and classes: all but the last fifth show class 0, a third of those class 1, every 40th class 2."""
    shown = np.arange(count * 4 // 5)
    items = [shown, shown[::3], shown[::40]]
    classes = [np.full(len(rows), label) for label, rows in enumerate(items)]
    return [f"a/{index:04}.jpg" for index in range(count)], ItemClasses(
        np.concatenate(items), np.concatenate(classes), len(CLASSES)
    )


def counts(shown: ItemClasses, chosen: np.ndarray) -> list[int]:
    """Return the number of chosen items that show each class, and of those without a class."""
    pairs = np.unique(np.stack([shown.items, shown.classes]), axis=1)
    by_class = np.bincount(pairs[1][chosen[pairs[0]]], minlength=shown.count).tolist()
    return [*by_class, int(chosen.sum() - len(np.intersect1d(pairs[0], np.flatnonzero(chosen))))]


def test_a_fraction_of_each_class_and_of_the_empty_images_is_validated():
    names, shown = images()
    val = divide(names, shown, fractions=[0.75, 0.25]) == 1
    # 160 / 4, 54 / 4 = 13.5, 4 / 4 and 40 / 4 images.
    common, usual, rare, empty = counts(shown, val)
    assert (common, rare, empty) == (40, 1, 10)
    assert usual in (13, 14)


def test_folds_are_disjoint_cover_everything_and_show_each_class_alike():
    names, shown = images()
    parts = divide(names, shown, fractions=[0.25] * 4, folds=True)
    assert set(parts.tolist()) == {0, 1, 2, 3}
    each = np.array([counts(shown, parts == part) for part in range(4)])
    assert each.sum(axis=0).tolist() == [160, 54, 4, 40]
    assert (np.ptp(each, axis=0) <= 1).all()


def test_the_split_does_not_depend_on_the_order_of_the_files_but_on_the_seed():
    names, shown = images()
    order = np.random.default_rng(1).permutation(len(names))
    place = np.argsort(order)
    mixed = ItemClasses(place[shown.items], shown.classes, shown.count)
    parts = divide(names, shown, fractions=[0.8, 0.2], seed=3)
    again = divide([names[row] for row in order], mixed, fractions=[0.8, 0.2], seed=3)
    assert np.array_equal(again, parts[order])
    assert not np.array_equal(divide(names, shown, fractions=[0.8, 0.2], seed=4), parts)


def test_groups_stay_together_and_every_class_is_trained_on():
    names, shown = images()
    groups = np.arange(200) // 7
    for seed in range(5):
        parts = divide(names, shown, fractions=[1 / 3] * 3, groups=groups, seed=seed, folds=True)
        assert all(len(set(parts[groups == group].tolist())) == 1 for group in set(groups.tolist()))
        for part in range(3):
            assert all(counts(shown, parts != part)[:3])


def test_a_class_of_one_group_is_always_trained_on():
    names, shown = images(20)
    only = ItemClasses(np.append(shown.items, 3), np.append(shown.classes, 3), 4)
    assert divide(names, only, fractions=[0.25] * 4, folds=True)[3] == ALWAYS_TRAINED
    assert all(divide(names, only, fractions=[0.1, 0.9], seed=seed)[3] == 0 for seed in range(9))


def test_classes_that_one_part_has_alone_are_given_back():
    # Classes 0 and 1 occur in items 0 and 1 only, which a group joins to items 4 and 5 of class 2.
    shown = ItemClasses(np.array([0, 1, 0, 1, 2, 3]), np.array([0, 0, 1, 1, 2, 2]), 3)
    for seed in range(8):
        parts = divide([f"{i}.jpg" for i in range(4)], shown, fractions=[0.1, 0.9], seed=seed)
        assert all(counts(shown, parts == 0)[:3])


def picture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(noise, (96, 72), interpolation=cv2.INTER_CUBIC)


def test_near_equal_groups_unite_copies_of_other_quality_and_size_but_not_other_images(tmp_path: Path):
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(index))
    small = cv2.resize(picture(0), (48, 36), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "4.jpg"), small, [cv2.IMWRITE_JPEG_QUALITY, 50])
    np.save(tmp_path / "5.npy", picture(1).astype(np.float32) / 255)
    files = sorted(tmp_path.iterdir())
    hashes = hash_files(files)
    assert near_groups(np.array(hashes, np.uint64)).tolist() == [0, 1, 2, 3, 0, 1]
    (tmp_path / "6.jpg").write_bytes(b"no image")
    assert hash_files([tmp_path / "6.jpg"], keep_bad=True) == [None]
    with pytest.raises(UserError, match=r"6\.jpg: does not decode"):
        hash_files([tmp_path / "6.jpg"])


def test_near_pairs_are_those_of_comparing_all_with_all():
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, 700, dtype=np.uint64)
    # Flip 0 to 12 bits of the first hashes in copies of them.
    for index in range(100):
        flipped = sum(1 << int(bit) for bit in random.choice(63, index % 13, replace=False))
        hashes[600 + index] = hashes[index] ^ np.uint64(flipped)
    hashes = np.unique(hashes)
    rows, columns = np.nonzero(np.triu(np.bitwise_count(hashes[:, None] ^ hashes[None]) <= 8, k=1))
    found = {
        (min(pair), max(pair))
        for ones, others in near_pairs(hashes)
        for pair in zip(ones.tolist(), others.tolist(), strict=True)
    }
    assert found == set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert len(found) >= 60


def test_images_of_one_colour_are_not_like_any_other_image():
    assert image_hash(np.full((5, 7), 9, np.uint8)) is None
    assert image_hash(np.full((5, 7, 4), np.nan, np.float32)) is None
    shown = ItemClasses(np.arange(4), np.zeros(4, np.int64), 1)
    options = SplitOptions(val_fraction=0.5, group_by="near-equal")
    found = split_images(options, list("abcd"), shown, class_names=["x"], hashes=lambda: [None, 5, None, 5])
    assert found.groups == 3 and {"b", "d"} in (set(found.train), set(found.val))


def split(names: list[str], shown: ItemClasses, **options) -> DataSplit:
    return split_images(SplitOptions(**options), names, shown, class_names=CLASSES, hashes=lambda: [])


def test_a_regular_expression_groups_file_names(tmp_path: Path):
    names = [f"film{index // 10}_{index}.jpg" for index in range(100)] + ["other.jpg"]
    shown = ItemClasses(np.arange(101), np.zeros(101, np.int64), 1)
    found = split(names, shown, folds=5, fold=2, group_by=r"^(film\d+)_")
    assert {name.split("_")[0] for name in found.val}.isdisjoint({name.split("_")[0] for name in found.train})
    assert found.groups == 11
    assert "--group-by does not match, such as other.jpg, and that are groups of their own: 1" in found.describe()
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(found.as_json()))
    again = DataSplit.read(path)
    assert again == found
    assert again.rows(names, "val").tolist() == [row for row, name in enumerate(names) if name in found.val]
    with pytest.raises(UserError, match="which the data do not have"):
        again.rows(names[50:], "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.0}, "--val-fraction 1.0: must be above 0 and below 1"),
        ({"folds": 1}, "--folds 1: must be 2 or above"),
        ({"folds": 3, "val_fraction": 0.2}, "--folds 3: cannot be combined with --val-fraction"),
        ({"folds": 3, "fold": 3}, "--fold 3: must be 0 to 2"),
        ({"fold": 1}, "--fold 1: needs --folds"),
        ({"group_by": "x"}, "--group-by x: has no effect without --val-fraction or --folds"),
        ({"val_fraction": 0.2, "group_by": "("}, r"--group-by \(: is not a regular expression"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        SplitOptions(**options)


def test_a_split_without_validation_images_is_refused():
    shown = ItemClasses(np.arange(3), np.arange(3), 3)
    with pytest.raises(UserError, match=r"0\.5: leaves no image to validate on, .* have 3 images in 3 groups"):
        split(["a.jpg", "b.jpg", "c.jpg"], shown, val_fraction=0.5)
    with pytest.raises(UserError, match=r"--folds 9: leaves no image .* 3 images in 3 groups; use fewer folds, or"):
        for fold in range(9):  # at most three of them get an image
            split(["a.jpg", "b.jpg", "c.jpg"], ItemClasses(np.arange(3), np.zeros(3, int), 1), folds=9, fold=fold)
    with pytest.raises(UserError, match=r"--group-by Z: matches no file name, such as a\.jpg"):
        split(["a.jpg", "b.jpg", "c.jpg"], shown, val_fraction=0.5, group_by="Z")
