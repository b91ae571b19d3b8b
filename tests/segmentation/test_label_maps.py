"""Label maps: files, COCO's objects, augmentation, and errors in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask

from backbones.common.datasets import find_split
from backbones.errors import UserError
from segmentation.data.classes import IGNORE, VOC_CLASSES, Classes
from segmentation.data.coco import CocoLabels
from segmentation.data.dataset import Segmentation, collate, collate_whole
from segmentation.data.folders import open_folder
from segmentation.losses import median_frequency_weights
from segmentation.transforms import Augment


class LabelSet:
    """A data set of images/SPLIT and labels/SPLIT that a test may break: 12 by 8 pixels, classes 0 to 2, void 9."""

    def __init__(self, root: Path) -> None:
        self.root = root
        random = np.random.default_rng(0)
        for split in ("train", "val"):
            for name in ("a", "b"):
                image, label = self.image(name, split), self.label(name, split)
                image.parent.mkdir(parents=True, exist_ok=True)
                label.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(image), random.integers(0, 256, (8, 12, 3), dtype=np.uint8))
                self.write(random.choice([0, 1, 2, 9], (8, 12)), name, split)
        self.classes("sky\nroad\ncar\n")

    def image(self, name: str, split: str = "train") -> Path:
        return self.root / "images" / split / f"{name}.jpg"

    def label(self, name: str, split: str = "train") -> Path:
        return self.root / "labels" / split / f"{name}.png"

    def write(self, values: np.ndarray, name: str = "a", split: str = "train", colours: Any = None) -> None:
        picture = Image.fromarray(values.astype(np.uint8), "RGB" if values.ndim == 3 else "L")
        if colours:
            picture = Image.fromarray(values.astype(np.uint8), "P")
            picture.putpalette(colours)
        picture.save(self.label(name, split))

    def classes(self, text: str) -> None:
        (self.root / "classes.txt").write_text(text)

    def open(self, ignore_index: int = 9) -> Segmentation:
        return Segmentation(open_folder(self.root, "train", ignore_index=ignore_index), Augment("eval"))


@pytest.fixture
def labels(tmp_path: Path) -> LabelSet:
    return LabelSet(tmp_path / "set")


def test_grey_label_maps(labels: LabelSet) -> None:
    values = np.arange(96).reshape(8, 12) % 3
    values[0, 0] = 9
    labels.write(values)
    data = labels.open()
    image, target = data[0]
    assert image.shape == (3, 8, 12) and image.dtype == torch.uint8
    assert target["mask"][0, 0] == IGNORE
    assert np.array_equal(target["mask"].numpy().ravel()[1:], values.ravel()[1:])
    assert data.source.classes.names == ("sky", "road", "car")
    assert data.source.file(0) == labels.image("a")
    assert data.pixel_counts([0]).sum() == 95


def test_palette_label_maps_keep_numbers_and_give_colours(labels: LabelSet) -> None:
    values = np.ones((8, 12), int)
    labels.write(values, colours=[10, 20, 30, 40, 50, 60, 70, 80, 90])
    data = labels.open()
    assert (data[0][1]["mask"] == 1).all()
    assert data.source.classes.colours == ((10, 20, 30), (40, 50, 60), (70, 80, 90))


def test_rgb_label_maps_are_read_by_the_colours_of_the_classes(labels: LabelSet) -> None:
    labels.classes("sky 0 0 255\nroad 128 64 128\nsmall car 255 0 0\nvoid 0 0 0\n")
    colours = np.array([[0, 0, 255], [128, 64, 128], [255, 0, 0], [0, 0, 0]])
    values = np.arange(96).reshape(8, 12) % 4
    labels.write(colours[values])
    data = labels.open()
    assert data.source.classes.names == ("sky", "road", "small car")
    assert np.array_equal(data[0][1]["mask"].numpy(), np.where(values == 3, IGNORE, values))


def test_a_palette_in_another_order_than_the_classes_is_read_by_its_colours(labels: LabelSet) -> None:
    labels.classes("sky 0 0 255\nroad 128 64 128\n")
    labels.write(np.ones((8, 12), int), colours=[128, 64, 128, 0, 0, 255])
    assert (labels.open()[0][1]["mask"] == 0).all()
    labels.write(np.ones((8, 12), int), colours=[0, 0, 255, 128, 64, 128])
    assert (labels.open()[0][1]["mask"] == 1).all()


def break_size(labels: LabelSet) -> None:
    labels.write(np.zeros((8, 11)))


def break_value(labels: LabelSet) -> None:
    labels.write(np.full((8, 12), 3))


def break_mask(labels: LabelSet) -> None:
    labels.label("a").unlink()


def break_rgb(labels: LabelSet) -> None:
    labels.write(np.zeros((8, 12, 3)))


def break_colour(labels: LabelSet) -> None:
    labels.classes("sky 0 0 255\nroad 128 64 128\n")
    labels.write(np.full((8, 12, 3), 7))


def break_file(labels: LabelSet) -> None:
    labels.label("a").write_bytes(labels.label("a").read_bytes()[:40])


def break_image(labels: LabelSet) -> None:
    labels.image("a").write_bytes(labels.image("a").read_bytes()[:300])


def break_split(labels: LabelSet) -> None:
    for name in "ab":
        labels.image(name).unlink()


def break_names(labels: LabelSet) -> None:
    labels.classes("sky\nroad\nsky\n")


def break_list(labels: LabelSet) -> None:
    (labels.root / "classes.txt").unlink()


MISTAKES = {
    break_size: r"a\.png: is 11x8 pixels, but its image is 12x8",
    break_value: r"a\.png: holds the value 3, which is neither a class \(0 to 2\) nor --ignore-index 9",
    break_mask: r"a\.jpg: has no label map \(1 of 2 images of train have none, and .*labels/train holds 1 \.png\)",
    break_rgb: r"a\.png: is an RGB image, but the data set does not say which colour each class has",
    break_colour: r"a\.png: contains the colour 7 7 7, which is not in classes\.txt",
    break_file: r"a\.png: does not decode",
    break_image: r"a\.jpg: does not decode",
    break_split: r"train: contains .*but no images",
    break_names: r"classes\.txt: the class name sky occurs more than once",
    break_list: r"classes\.txt: cannot be read",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
def test_mistakes_name_the_file(labels: LabelSet, mistake: Any) -> None:
    mistake(labels)
    with pytest.raises(UserError, match=MISTAKES[mistake]):
        list(labels.open())


def test_pascal_voc(tmp_path: Path) -> None:
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_1\n")
    cv2.imwrite(str(tmp_path / "JPEGImages/2007_1.jpg"), np.zeros((4, 5, 3), np.uint8))
    mask = Image.fromarray(np.array([[0, 15, 255, 20, 1]] * 4, np.uint8), "P")
    mask.putpalette([value for number in range(256) for value in (number, 0, 0)])
    mask.save(tmp_path / "SegmentationClass/2007_1.png")
    data = Segmentation(open_folder(tmp_path, "val", ignore_index=255), Augment("eval"))
    assert data.source.classes.names == VOC_CLASSES
    assert data[0][1]["mask"][0].tolist() == [0, 15, IGNORE, 20, 1]
    with pytest.raises(UserError, match=r"train\.txt: cannot be read"):
        open_folder(tmp_path, "train", ignore_index=255)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("2007_1\n../2007_1\n")
    with pytest.raises(UserError, match=r"train\.txt: lists \.\./2007_1, which leads out of JPEGImages"):
        open_folder(tmp_path, "train", ignore_index=255)


IMAGE = {"id": 1, "file_name": "1.jpg", "height": 10, "width": 20}


def square(identifier: int, category: int, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    left, top, right, bottom = box
    outline = [[left, top, right, top, right, bottom, left, bottom]]
    record = {"id": identifier, "image_id": 1, "category_id": category, "segmentation": outline, "iscrowd": 0}
    return {**record, **more}


@pytest.fixture
def write_coco(tmp_path: Path):
    """Writes one 20x10 image with instances."""

    def write(*annotations: dict[str, Any], names: Any = ("cat", "dog"), **more: Any) -> Path:
        cv2.imwrite(str(tmp_path / "1.jpg"), np.zeros((10, 20, 3), np.uint8))
        data = {
            "images": [IMAGE],
            "categories": [{"id": 10 * place, "name": name} for place, name in enumerate(names, 1)],
            "annotations": list(annotations),
            **more,
        }
        (tmp_path / "truth.json").write_text(json.dumps(data))
        return tmp_path / "truth.json"

    return write


def test_coco_instances_become_a_label_map(write_coco) -> None:
    runs = {"counts": [0, 30, 170], "size": [10, 20]}  # the three leftmost columns
    path = write_coco(
        square(1, 10, (2, 0, 8, 10)),
        square(2, 20, (6, 0, 12, 10)),
        square(3, 20, (10, 0, 14, 10)),
        {"id": 4, "image_id": 1, "category_id": 10, "iscrowd": 1, "segmentation": runs},
    )
    source = CocoLabels(path, path.parent)
    assert source.classes.names == ("background", "cat", "dog")
    row = source.labels(0, (10, 20))[5].tolist()
    # The crowd covers 0..2, the cat 2..5 above it. Both classes claim 6..7. Two dogs overlap at 10..11.
    assert row == [255] * 2 + [1] * 4 + [255] * 2 + [2] * 6 + [0] * 6


def test_an_image_without_instances_is_background(write_coco) -> None:
    path = write_coco()
    assert not CocoLabels(path, path.parent).labels(0, (10, 20)).any()


def test_voc_classes_of_coco(coco_mini: Path) -> None:
    everything = CocoLabels(*find_split(coco_mini, "val"))
    some = CocoLabels(*find_split(coco_mini, "val"), chosen="voc")
    assert (len(everything.classes), len(some.classes)) == (81, 21)
    person = everything.classes.names.index("person")
    seen = 0
    for row in range(len(everything)):
        size = everything.image(row).shape[:2]
        whole, part = everything.labels(row, size), some.labels(row, size)
        both = (whole != IGNORE) & (part != IGNORE)
        assert np.array_equal((whole == person)[both], (part == VOC_CLASSES.index("person"))[both])
        seen += int((whole == person).sum())
    assert seen > 100_000


def test_instances_are_where_pycocotools_has_them(coco_mini: Path) -> None:
    from pycocotools.coco import COCO

    path, folder = find_split(coco_mini, "train")
    source, reference = CocoLabels(path, folder), COCO(str(path))
    ids = sorted(reference.getCatIds())
    for row, image in enumerate(source.image_ids[:20]):
        found = reference.loadAnns(reference.getAnnIds(imgIds=int(image)))
        size = source.image(row).shape[:2]
        claims = np.zeros((len(ids) + 1, *size), bool)
        for annotation in (a for a in found if not a["iscrowd"]):
            claims[ids.index(annotation["category_id"]) + 1] |= reference.annToMask(annotation).astype(bool)
        labels, count = source.labels(row, size), claims.sum(0)
        assert np.array_equal(labels[count == 1], claims.argmax(0)[count == 1])
        assert (labels[count > 1] == IGNORE).all()
        assert np.isin(labels[count == 0], (0, IGNORE)).all()


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("has no list `categories`", {"categories": 3}),
        ("`images` is empty", {"images": []}),
        ("image 'x': `id` is 'x'", {"images": [{**IMAGE, "id": "x"}]}),
        ("image id 1 is a duplicate", {"images": [IMAGE, IMAGE]}),
        ("category id 10 is a duplicate", {"categories": [{"id": 10, "name": "cat"}, {"id": 10, "name": "dog"}]}),
        ("category name 'cat' is a duplicate", {"categories": [{"id": 10, "name": "cat"}, {"id": 20, "name": "cat"}]}),
        (
            "annotations\\[0\\]: `category_id` is 10, but the file has no record of",
            {"categories": [{"id": 20, "name": "dog"}]},
        ),
        ("annotations\\[0\\]: `image_id` is 1, but the file has no record of", {"images": [{**IMAGE, "id": 2}]}),
    ],
)  # fmt: skip
def test_malformed_coco_files_are_named(write_coco, words: str, more: dict[str, Any]) -> None:
    path = write_coco(square(1, 10, (2, 0, 8, 10)), **more)
    with pytest.raises(UserError, match=words):
        CocoLabels(path, path.parent)


@pytest.mark.parametrize("image", [{"id": 1, "file_name": "1.jpg", "width": 20}, {**IMAGE, "height": None}])
def test_a_size_that_the_record_lacks_is_read_from_the_image(write_coco, image: dict[str, Any]) -> None:
    path = write_coco(square(1, 10, (2, 0, 8, 10)))
    expected = CocoLabels(path, path.parent).labels(0, (10, 20))
    path = write_coco(square(1, 10, (2, 0, 8, 10)), images=[image])
    assert (CocoLabels(path, path.parent).labels(0, (10, 20)) == expected).all()


def test_harmless_differences_are_read_and_counted(write_coco) -> None:
    """Ids of annotations that are missing or repeated, whole numbers with a point, and sizes that are missing."""
    runs = {"counts": [0, 30, 170], "size": [10, 20]}
    shapes = [square(1, 10, (2, 0, 8, 10)), square(2, 20, (10, 0, 14, 10)), square(3, 20, (15, 0, 16, 10))]
    plain = CocoLabels(path := write_coco(*shapes, {**shapes[0], "id": 4, "segmentation": runs}), path.parent)
    shapes[1].update(id=1, category_id=20.0)
    del shapes[2]["id"]
    runs = {"counts": [0.0, 30.0, 170.0], "size": [10.0, 20.0]}
    image = {"id": 1.0, "file_name": "1.jpg", "width": 20.0}
    path = write_coco(*shapes, {**shapes[0], "id": 4.0, "segmentation": runs}, images=[image])
    found = CocoLabels(path, path.parent)
    assert np.array_equal(found.labels(0, (10, 20)), plain.labels(0, (10, 20))) and plain.notes == {}
    assert found.notes == {"sizes read from the image files": 1, "annotations with a missing or repeated id": 2}


@pytest.mark.parametrize("field", ["image_id", "category_id", "segmentation"])
@pytest.mark.parametrize("value", [None, 1.5, "absent"])
def test_malformed_annotations_are_named(write_coco, field: str, value: Any) -> None:
    record = square(7, 10, (2, 0, 8, 10), **{field: value})
    if value == "absent":
        del record[field]
    path = write_coco(record)
    with pytest.raises(UserError, match=f"annotation .*: `{field}` (is|is missing)"):
        CocoLabels(path, path.parent)


OUTLINES = {
    "transposed": ({"counts": [200], "size": [20, 10]}, r"a mask of \[20, 10\] for an image of \[10, 20\]"),
    "short runs": ({"counts": [0, 30], "size": [10, 20]}, "run lengths add up to 30, not 10 x 20"),
    "no runs": ({"size": [10, 20]}, "counts"),
    "bad text": ({"counts": "abc", "size": [10, 20]}, "cut short"),
    "null": ([[0, 0, None, 5, 5, 5]], "a polygon is a list of at least three points"),
    "not a number": ([[0, 0, float("nan"), 5, 5, 5]], "a polygon is a list of at least three points"),
    "infinite": ([[0, 0, float("inf"), 5, 5, 5]], "a polygon is a list of at least three points"),
    "two points": ([[0, 0, 5, 5]], "a polygon is a list of at least three points"),
    "odd": ([[0, 0, 5, 5, 5, 0, 3]], "a polygon is a list of at least three points"),
    "words": ([["a", "b"]], "a polygon is a list of at least three points"),
    "flat": ([0, 0, 5, 5, 5, 0], "a polygon is a list of at least three points"),
}


@pytest.mark.parametrize("kind", OUTLINES)
def test_malformed_outlines_are_named(write_coco, kind: str) -> None:
    """Some of these end the process in pycocotools."""
    outline, words = OUTLINES[kind]
    path = write_coco(square(7, 10, (2, 0, 8, 10), segmentation=outline))
    with pytest.raises(UserError, match=rf"annotations\[0\]: `segmentation` is malformed \(.*{words}"):
        CocoLabels(path, path.parent).labels(0, (10, 20))


@pytest.mark.parametrize("name", ["../1.jpg", "/etc/passwd", "a/../../1.jpg"])
def test_file_names_that_lead_out_of_the_folder_are_refused_unless_allowed(write_coco, name: str) -> None:
    path = write_coco(images=[{**IMAGE, "file_name": name}])
    with pytest.raises(UserError, match=r"image 1: `file_name` '.*' leads out of the image folder; .* --allow-outside"):
        CocoLabels(path, path.parent)
    assert CocoLabels(path, path.parent, allow_outside=True).file(0) == path.parent / name


def test_more_categories_than_a_byte_has_numbers_are_refused(write_coco) -> None:
    path = write_coco(names=[f"class {number}" for number in range(255)])
    with pytest.raises(UserError, match="has 255 categories, but label maps can hold only 1 to 254"):
        CocoLabels(path, path.parent)


def test_compressed_runs_are_where_pycocotools_has_them(write_coco) -> None:
    random = np.random.default_rng(0)
    for share in (0, 0.02, 0.5, 1):
        shape = np.asfortranarray((random.random((10, 20)) < share).astype(np.uint8))
        runs = mask.encode(shape)
        path = write_coco(square(1, 10, (0, 0, 1, 1), segmentation={**runs, "counts": runs["counts"].decode()}))
        assert np.array_equal(CocoLabels(path, path.parent).labels(0, (10, 20)), shape)


def test_outlines_far_beyond_the_image_cost_nothing(write_coco) -> None:
    far = [[-1e12, -1e12, 1e12, -1e12, 1e12, 1e12, -1e12, 1e12]]
    path = write_coco(square(7, 10, (2, 0, 8, 10), segmentation=far))
    assert (CocoLabels(path, path.parent).labels(0, (10, 20)) == 1).all()


def test_images_of_another_size_and_absent_classes_of_voc_are_named(write_coco) -> None:
    path = write_coco()
    cv2.imwrite(str(path.parent / "1.jpg"), np.zeros((9, 20, 3), np.uint8))
    with pytest.raises(UserError, match=r"1\.jpg: is 20x9 pixels, but the annotations say 20x10"):
        CocoLabels(path, path.parent).image(0)
    with pytest.raises(UserError, match="has no category airplane"):
        CocoLabels(path, path.parent, chosen="voc")


@pytest.mark.parametrize("preset", ["train", "light", "lsj", "steps.yaml"])
def test_augmentation_moves_image_and_labels_together(preset: str, tmp_path: Path) -> None:
    """Pixels of a colour belong to a class: so it is afterwards, borders and resized edges aside."""
    if preset == "steps.yaml":
        (tmp_path / preset).write_text("- VerticalFlip: {p: 0.5}\n- Transpose\n")
        preset = str(tmp_path / preset)
    labels = np.zeros((60, 80), np.uint8)
    labels[10:40, 20:60] = 1
    image = np.where(labels[..., None] == 1, 255, 0).astype(np.uint8).repeat(3, axis=2)
    augment = Augment(preset, crop=64, scales=(0.5, 2.0), fill=(124, 116, 104))
    shown = set()
    for index in range(30):
        pixels, mask = augment(image, labels, epoch=0, index=index)
        assert pixels.shape == (64, 64, 3) and mask.shape == (64, 64)
        assert set(np.unique(mask)) <= {0, 1, IGNORE}
        light, dark = pixels.mean(2) > 140, pixels.mean(2) < 80
        inside = cv2.erode((mask == 1).astype(np.uint8), np.ones((7, 7))) > 0
        outside = cv2.erode((mask == 0).astype(np.uint8), np.ones((7, 7))) > 0
        assert (light | ~inside).mean() > 0.98 and (dark | ~outside).mean() > 0.98
        shown.add(pixels.tobytes())
    assert len(shown) > 3
    again, mask = augment(image, labels, epoch=3, index=5)
    assert np.array_equal(again, augment(image, labels, epoch=3, index=5)[0])
    other = Augment(preset, crop=64, scales=(0.5, 2.0), fill=(124, 116, 104), seed=1)
    assert any(
        not np.array_equal(other(image, labels, epoch=0, index=i)[0], augment(image, labels, epoch=0, index=i)[0])
        for i in range(10)
    )


def test_strong_augmentation_leaves_the_labels_of_erased_pixels() -> None:
    image, labels = np.full((64, 64, 3), 200, np.uint8), np.ones((64, 64), np.uint8)
    augment, erased = Augment("strong", crop=32, scales=(1, 1)), 0
    for index in range(30):
        pixels, mask = augment(image, labels, epoch=0, index=index)
        assert pixels.shape == (32, 32, 3) and (mask == 1).all()
        erased += (pixels == 0).all(axis=2).any()
    assert 0 < erased < 30  # a quarter of the images


WRONG = {
    "- Transposed": "unknown transform of albumentations 'Transposed': did you mean Transpose",
    "- Normalize": "Normalize: turns an image of uint8 .* into float32",
    "- RandomCropNearBBox": "RandomCropNearBBox: needs cropping_bbox, which a list of steps cannot give",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_list_of_transforms_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "steps.yaml").write_text(text)
    with pytest.raises(UserError, match=WRONG[text]):
        Augment(str(tmp_path / "steps.yaml"))


@pytest.mark.parametrize(
    ("step", "beyond"),
    [
        ("Rotate: {limit: [45, 45], p: 1}", IGNORE),
        ("Affine: {translate_percent: [0.3, 0.3], p: 1}", IGNORE),
        ("Pad: {padding: 9, p: 1}", IGNORE),
        ("Pad: {padding: 9, fill_mask: 3, p: 1}", 3),  # as the list says
    ],
)
def test_pixels_that_a_transform_takes_from_beyond_the_image_do_not_count(
    tmp_path: Path, step: str, beyond: int
) -> None:
    (tmp_path / "steps.yaml").write_text(f"- {step}")
    image, labels = np.full((48, 48, 3), 200, np.uint8), np.full((48, 48), 7, np.uint8)
    pixels, mask = Augment(str(tmp_path / "steps.yaml"), crop=66)(image, labels, epoch=0, index=0)
    assert pixels.shape == (66, 66, 3)
    assert {7, beyond} <= {*np.unique(mask).tolist()} <= {7, beyond, IGNORE}


def test_an_augmentation_has_the_steps_that_its_file_had_when_it_was_made(tmp_path: Path) -> None:
    """In a notebook, a file is edited and read again."""
    file, image, labels = tmp_path / "steps.yaml", np.zeros((32, 32, 3), np.uint8), np.full((32, 32), 7, np.uint8)
    made = []
    for value in (3, 4):
        file.write_text(f"- Pad: {{padding: 9, fill_mask: {value}, p: 1}}")
        made.append(Augment(str(file), crop=50))
    for augment, value in zip(made, (3, 4), strict=True):
        mask = augment(image, labels, epoch=0, index=0)[1]
        assert {*np.unique(mask).tolist()} == {7, value}


def test_batches_are_padded_with_what_does_not_count(labels: LabelSet) -> None:
    data = labels.open()
    image, target = data[0]
    small = (image[:, :5, :6], {"mask": target["mask"][:5, :6], "index": 7})
    images, batch = collate([data[0], small])
    assert images.shape == (2, 3, 8, 12)
    assert (batch["mask"][1, 5:] == IGNORE).all() and (batch["mask"][1, :, 6:] == IGNORE).all()
    assert batch["index"].tolist() == [0, 7]
    whole, batch = collate_whole([data[0], small])
    assert [tuple(i.shape) for i in whole] == [(3, 8, 12), (3, 5, 6)] and len(batch["mask"]) == 2


def test_median_frequency_weights() -> None:
    # Class 0: 60 of the 200 pixels of both images; class 1: 140 of 200; class 2 is nowhere.
    # Image 0 has 100 labelled pixels and image 1 has 100. Frequencies .3 and .7, median .5.
    weights = median_frequency_weights(np.array([[20, 80, 0], [40, 60, 0]]))
    assert weights.tolist() == pytest.approx([0.5 / 0.3, 0.5 / 0.7, 1.0])
    # A class of one image is measured in that image alone: 30 of 50, not 30 of 150.
    weights = median_frequency_weights(np.array([[20, 30], [100, 0]]))
    assert weights.tolist() == pytest.approx([0.7 / 0.8, 0.7 / 0.6])


def test_class_lists(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    for text, words in {
        "sky\n": "lists 1 class;",
        "sky 1 2 3\nroad\n": "only 1 of 2 classes have a colour",
        "sky 1 2 300\nroad 1 2 3\n": "line 1: colour 1 2 300 has a value above 255",
        "sky 1 2 3\nroad 1 2 3\n": "two lines have the colour 1 2 3",
        "sky 1 2 3\nroad 1 2 4\nvoid 1 2 3\n": "two lines have the colour 1 2 3",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            Classes.read(path)
    path.write_text("\ufeffsky\n\ntraffic light 2\n", encoding="utf-8")
    assert Classes.read(path).names == ("sky", "traffic light 2")
    path.write_text("sky 1 2 3\nVoid 0 0 0\nroad 4 5 6\n")
    assert Classes.read(path) == Classes(("sky", "road"), ((1, 2, 3), (4, 5, 6)), given=True, void=(0, 0, 0))
