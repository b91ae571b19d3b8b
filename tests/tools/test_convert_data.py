"""Conversion between the layouts of COCO, VOC and YOLO: hand-computed boxes, round trips, and user errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT, CocoFolder, VocFolder
from PIL import Image

from backbones.common.outlines import paint, run_lengths
from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.convert import convert
from detection.data.folders import open_split
from detection.runs import bitmaps
from tools import convert_data
from tools.cli import ending

BCCD = ROOT.parent / "shared" / "data" / "bccd"
OWN = {"train": "train", "val": "val"}
Contents = dict[str, tuple[int, int, list[tuple[str, list[float], int]]]]


def contents(root: Path, split: str, *, crowds: bool = True) -> Contents:
    """Return size and objects (class, box, whether a crowd) of each image of a split, by its name."""
    data = open_split(root, split).data
    names = {record["id"]: record["name"] for record in data["categories"]}
    found: dict[int, list[Any]] = {image["id"]: [] for image in data["images"]}
    for thing in data["annotations"]:
        if crowds or not thing["iscrowd"]:
            found[thing["image_id"]].append((names[thing["category_id"]], thing["bbox"], thing["iscrowd"]))
    return {image["file_name"]: (image["width"], image["height"], found[image["id"]]) for image in data["images"]}


def classes(root: Path, split: str = "train") -> list[str]:
    """Return the class names in the order of their labels."""
    return list(CocoAnnotations.of(open_split(root, split)).categories.names)


@pytest.fixture
def odd(coco: CocoFolder) -> CocoFolder:
    """COCO data that is hard to convert: fractions of pixels, odd names, a class without boxes, a subfolder."""
    coco.data["categories"] = [
        {"id": 18, "name": 'salt & <pepper> "é"\''},
        {"id": 3, "name": "007"},
        {"id": 90, "name": "yes: no #1"},
        {"id": 91, "name": "of no box"},
    ]
    for place, record in enumerate(coco.data["annotations"]):
        record["bbox"] = np.random.default_rng(place).uniform(1, 19, 4).tolist()
    coco.data["annotations"][0]["bbox"] = [1 / 3, 1e-7, 0.1, 39.9999]
    coco.data["annotations"][1]["bbox"] = [-1.5, 2, 70, 8.25]  # partly outside the image
    for image in coco.data["images"]:
        image["file_name"] = f"some folder/{image['id']} 1.jpg"
    for split in ("train", "val"):
        (coco.images(split) / "some folder").mkdir(parents=True)
    coco.write()
    return coco


def of_other_names(coco: CocoFolder) -> None:
    """Rename the images of val: VOC has one folder for all images, so their names must differ from those of train."""
    (coco.images("val") / "some folder").rename(coco.images("val") / "others")
    text = coco.annotations("val").read_text().replace("some folder", "others")
    coco.annotations("val").write_text(text)


def test_boxes_by_hand(voc: VocFolder, tmp_path: Path):
    """VOC counts pixels from 1 and includes the last: 11..30 begins at 10 and is 20 wide, 6..35 is 30 high."""
    convert(voc.write(), tmp_path / "coco", to="coco", splits={"train": "trainval", "val": "test"})
    assert contents(tmp_path / "coco", "train") == {
        "a.jpg": (60, 40, [("dog", [10, 5, 20, 30], 0), ("cat", [0, 0, 60, 40], 0)]),
        "c.jpg": (60, 40, []),
    }
    assert contents(tmp_path / "coco", "val") == {"b.jpg": (60, 40, [("cat", [4, 4, 5, 5], 1)])}
    assert classes(tmp_path / "coco") == classes(tmp_path / "coco", "val") == ["cat", "dog"]
    convert(voc.root, tmp_path / "yolo", to="yolo", splits={"train": "trainval"})
    labels = tmp_path / "yolo" / "labels" / "train"
    # Centre 20 of 60 and 20 of 40, size 20 of 60 and 30 of 40; then the whole image.
    assert (labels / "a.txt").read_text() == "1 0.333333333333333 0.5 0.333333333333333 0.75\n0 0.5 0.5 1 1\n"
    assert (labels / "c.txt").read_text() == ""


def test_coco_through_voc_keeps_all_but_ids_and_outlines(odd: CocoFolder, tmp_path: Path):
    """Boxes come back to the last bit; crowds are difficult objects."""
    of_other_names(odd)
    lines = convert(odd.root, tmp_path / "voc", to="voc", splits=OWN)
    assert lines == ["train: 4 images, 5 boxes", "val: 4 images, 5 boxes"]
    convert(tmp_path / "voc", tmp_path / "again", to="coco", splits=OWN)
    for split in OWN:
        assert contents(tmp_path / "again", split) == contents(odd.root, split)
    assert classes(tmp_path / "again") == classes(odd.root)
    image = "some folder/7 1.jpg"
    assert (tmp_path / "again" / "train" / image).read_bytes() == (odd.images() / image).read_bytes()


def test_coco_through_yolo_keeps_all_but_ids_outlines_and_crowds(odd: CocoFolder, tmp_path: Path):
    odd.data["annotations"][2]["segmentation"] = [[1, 1, 2, 1, 2, 2]]
    odd.write()
    lines = convert(odd.root, tmp_path / "yolo", to="yolo", splits=OWN)
    assert lines[0] == (
        "train: 4 images, 5 boxes; left out: 2 crowds or difficult objects, 1 outlines, 1 parts of boxes outside their "
        "image"
    )
    odd.data["annotations"][1]["bbox"] = [0, 2, 60, 8.25]
    odd.write()
    convert(tmp_path / "yolo", tmp_path / "again", to="coco", splits=OWN)
    for split in OWN:
        before, after = contents(odd.root, split, crowds=False), contents(tmp_path / "again", split)
        assert before.keys() == after.keys()
        for name, (width, height, things) in after.items():
            boxes = [(label, pytest.approx(box, abs=1e-9), crowd) for label, box, crowd in before[name][2]]
            assert (width, height, things) == (60, 40, boxes)
    assert classes(tmp_path / "again") == classes(odd.root)


NOT_READ_OF_VOC = (
    "; parts of objects (<part>), which are left out: 2; outlines of objects (<polygon>), which are not read: 1"
)
LOST_OF_VOC = {
    "coco": "; difficult objects written as crowds: 1",
    "cvat": "; left out: 1 crowds or difficult objects, 1 values of `pose`, 1 values of `truncated`",
    "open-images": "; left out: 1 images without objects, 2 values of `pose`",
    "yolo": "; left out: 1 crowds or difficult objects, 1 values of "
    "`occluded`, 1 values of `pose`, 1 values of `truncated`",
}


@pytest.mark.parametrize("to", LOST_OF_VOC)
def test_everything_of_voc_that_a_layout_cannot_hold_is_named(voc: VocFolder, tmp_path: Path, to: Any):
    path = voc.write() / "Annotations" / "a.xml"
    hand = "<part><name>hand</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    marks = "<pose>Left</pose><truncated>1</truncated><occluded>1</occluded>"
    text = re.sub("<(pose|truncated|occluded)>[^<]*</[a-z]*>", "", path.read_text())
    path.write_text(text.replace("</name>", f"</name>{marks}{hand}{hand}<polygon><x1>3</x1></polygon>", 1))
    (voc.root / "ImageSets/Main/all.txt").write_text("a\nb\nc\n")
    (line,) = convert(voc.root, tmp_path / "new", to=to, splits={"train": "all"})
    assert line == f"train: 3 images, 3 boxes{NOT_READ_OF_VOC}{LOST_OF_VOC[to]}"


@pytest.mark.parametrize("through", ["coco", "yolo"])
def test_voc_comes_back_in_whole_pixels(voc: VocFolder, tmp_path: Path, through: Any):
    voc.difficult["b"] = False
    voc.write()
    convert(voc.root, tmp_path / "other", to=through, splits={"train": "trainval", "val": "test"})
    convert(tmp_path / "other", tmp_path / "again", to="voc", splits=OWN)
    for before, after in (("trainval", "train"), ("test", "val")):
        assert contents(tmp_path / "again", after) == contents(voc.root, before)
    text = (tmp_path / "again" / "Annotations" / "a.xml").read_text()
    assert "<xmin>11</xmin>" in text and "<xmax>30</xmax>" in text
    assert ("<pose>Left</pose>" in text) == (through == "coco")  # COCO's records keep it


def test_yolo_comes_back(coco: CocoFolder, tmp_path: Path):
    coco.data["annotations"] = coco.data["annotations"][:3]
    coco.write()
    convert(coco.root, tmp_path / "yolo", to="yolo", splits={"train": "train"})
    convert(tmp_path / "yolo", tmp_path / "voc", to="voc", splits={"train": "train"})
    convert(tmp_path / "voc", tmp_path / "again", to="yolo", splits={"train": "train"})
    for path in sorted((tmp_path / "yolo" / "labels" / "train").iterdir()):
        assert (tmp_path / "again" / "labels" / "train" / path.name).read_text() == path.read_text()


TOOLS = ("coco-roboflow", "cvat", "labelme", "label-studio", "via", "open-images")


@pytest.mark.parametrize("to", TOOLS)
def test_formats_of_tools_come_back(odd: CocoFolder, tmp_path: Path, to: Any):
    """Boxes come back up to the rounding of percentages and fractions; polygons too, where the format has them."""
    odd.data["categories"] = [{"id": 3, "name": "007"}, {"id": 18, "name": 'salt & <pepper> "é"\''}]
    odd.data["annotations"] = [a for a in odd.data["annotations"] if a["category_id"] != 90]
    odd.data["annotations"][0]["segmentation"] = [[10, 5, 29.5, 5, 20, 35]]
    odd.data["annotations"][0]["bbox"] = [10, 5, 19.5, 30]
    odd.write()
    lines = convert(odd.root, tmp_path / "other", to=to, splits=OWN)
    convert(tmp_path / "other", tmp_path / "again", to="coco", splits=OWN)
    crowds, negatives = to in ("coco-roboflow", "open-images"), to != "open-images"
    lost = {
        "coco-roboflow": "",
        "open-images": "; left out: 1 images without objects, 1 outlines",
    }.get(to, "; left out: 2 crowds or difficult objects")
    assert lines[0] == f"train: 4 images, 4 boxes{lost}"
    for split in OWN:
        before, after = contents(odd.root, split, crowds=crowds), contents(tmp_path / "again", split)
        for name, (width, height, things) in before.items():
            boxes = [(label, pytest.approx(box, abs=1e-9), crowd) for label, box, crowd in things]
            if boxes or negatives:
                assert after[name] == (width, height, boxes)
    assert classes(tmp_path / "again") == classes(odd.root)
    outlines = [a.get("segmentation") for a in open_split(tmp_path / "again", "train").data["annotations"]]
    if to != "open-images":
        assert outlines[0] == [pytest.approx([10, 5, 29.5, 5, 20, 35])]


DISC = (np.hypot(*(np.mgrid[:40, :60] - np.array([20, 30])[:, None, None])) < 15).astype(np.uint8)
RING = np.where(np.hypot(*(np.mgrid[:40, :60] - np.array([20, 30])[:, None, None])) < 6, 0, DISC)


def masked(coco: CocoFolder) -> list[np.ndarray]:
    """Give a data set three objects with masks: a polygon, two parts, and a ring as run lengths. Return the masks."""
    parts = [[40.0, 1, 50, 1, 50, 9, 40, 9], [55.0, 20, 58, 30, 52, 30]]
    outlines: list[Any] = [[[2.0, 3.5, 12.0, 3.0, 7.0, 20.0]], parts]
    outlines.append(dict(run_lengths(RING.astype(bool))))
    boxes = [[2, 3, 10, 17], [40, 1, 18.4, 29], [16, 6, 29, 29]]
    coco.data |= {"images": coco.data["images"][:1], "categories": [{"id": 18, "name": "dog"}]}
    coco.data["annotations"] = [
        {"id": n, "image_id": coco.data["images"][0]["id"], "category_id": 18, "bbox": box, "area": 9, "iscrowd": 0}
        | {"segmentation": outline}
        for n, (outline, box) in enumerate(zip(outlines, boxes, strict=True), 1)
    ]
    coco.write()
    return [paint(outline, (40, 60)) for outline in outlines]


def masks_in(root: Path) -> list[np.ndarray]:
    data = CocoAnnotations.of(open_split(root, "train", masks=True), without_mask="error")
    return list(bitmaps(data.strips_of(0), len(data.boxes), (40, 60)))


@pytest.mark.parametrize("to", ["voc", "yolo", "cvat", "labelme", "label-studio", "via", "coco-roboflow"])
def test_masks_come_back_from_every_layout_that_holds_them(coco: CocoFolder, tmp_path: Path, to: Any):
    """Every pixel comes back, also of a mask in two parts and of a ring, which are polygons in YOLO and VIA."""
    expected = masked(coco)
    (line,) = convert(coco.root, tmp_path / "new", to=to, splits={"train": "train"}, masks=True)
    polygons = "; masks written as one polygon each (IoU 1.0000 on average, 1.0000 at least): 2"
    assert (polygons in line) == (to in ("yolo", "via")) and "left out" not in line
    convert(tmp_path / "new", tmp_path / "again", to="coco", splits={"train": "train"}, masks=True)
    for found in (masks_in(tmp_path / "new"), masks_in(tmp_path / "again")):
        assert len(found) == 3
        for mask, other in zip(found, expected, strict=True):
            assert np.array_equal(mask, other)


def test_masks_of_lvis_are_read_and_converted(coco: CocoFolder, tmp_path: Path):
    """LVIS's file names its images by COCO's address, and lists the categories that an image lacks."""
    expected = masked(coco)
    (image,) = coco.data["images"]
    image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
    image |= {"neg_category_ids": [18], "not_exhaustive_category_ids": []}
    for record in coco.data["annotations"]:
        del record["iscrowd"]
    file = tmp_path / "lvis_v1_train.json"
    name = image["coco_url"].rpartition("/")[2]
    cv2.imwrite(str(tmp_path / name), np.zeros((40, 60, 3), np.uint8))
    (tmp_path / "photos" / "train2017").mkdir(parents=True)
    (tmp_path / name).rename(tmp_path / "photos" / "train2017" / name)
    file.write_text(json.dumps(coco.data))
    for to in ("yolo", "coco"):
        options: Any = {"images": tmp_path / "photos", "splits": {"train": "train"}, "masks": True}
        convert(file, tmp_path / f"as-{to}", to=to, **options)
        for mask, other in zip(masks_in(tmp_path / f"as-{to}"), expected, strict=True):
            assert np.array_equal(mask, other)
    assert open_split(tmp_path / "as-coco", "train").data["images"][0]["neg_category_ids"] == [18]


def test_what_happens_to_masks_is_named(coco: CocoFolder, tmp_path: Path):
    """Overlapping masks in VOC, an object without a mask, and outlines that do not fit their boxes."""
    masked(coco)
    disc = {"id": 4, "image_id": 5, "category_id": 18, "bbox": [16, 6, 29, 29], "area": 9, "iscrowd": 0}
    coco.data["annotations"] += [{**disc, "segmentation": dict(run_lengths(DISC.astype(bool)))}, {**disc, "id": 5}]
    coco.write()
    ends = {
        "voc": "left out: 1 masks of objects (they have none or a malformed one, so that their box is written), "
        "1 parts of masks that a later object covers",
        "yolo": "masks written as one polygon each (IoU 1.0000 on average, 1.0000 at least): 3; boxes that the new "
        "layout replaces by those around their masks: 1; left out: 1 masks of objects (they have none or a malformed "
        "one, so that their box is written)",
    }
    for to, end in ends.items():
        lines = convert(coco.root, tmp_path / to, to=to, splits={"train": "train"}, masks=True)
        assert lines[0].endswith(end), lines
    # Without --masks, boxes stay, and outlines that fit their box are kept where the layout has masks.
    lines = convert(coco.root, tmp_path / "labelme", to="labelme", splits={"train": "train"})
    assert lines[0] == "train: 1 image, 5 boxes; left out: 1 outlines"
    boxes = [a["bbox"] for a in open_split(tmp_path / "labelme", "train").data["annotations"]]
    assert boxes == [a["bbox"] for a in coco.data["annotations"]]


def test_classes_without_objects_are_named_where_the_new_layout_cannot_hold_them(coco: CocoFolder, tmp_path: Path):
    coco.data["categories"].append({"id": 91, "name": "of no box"})
    coco.write()
    lines = convert(coco.root, tmp_path / "new", to="labelme", splits=OWN)
    assert lines[-1] == "left out: classes without objects (of no box)"


def test_splits_that_are_not_converted_are_named(coco: CocoFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    coco.write()
    coco.annotations("val").rename(coco.root / "annotations" / "instances_extra2017.json")
    convert_data.main(["--data", str(coco.root), "--to", "yolo", "--output", str(tmp_path / "new")])
    out = capsys.readouterr().out
    assert "that are not converted: extra; name them with" in out and "train: 4 images" in out
    assert "val:" not in out


def shared_name(coco: CocoFolder) -> None:
    """Change nothing: train and val of the data set have images of the same names."""


def spaced_class(coco: CocoFolder) -> None:
    coco.data["categories"][0]["name"] = " dog"


def hashed_class(coco: CocoFolder) -> None:
    coco.data["categories"][0]["name"] = "#dog"
    coco.write()
    for path in coco.images("val").iterdir():  # VOC needs other names in each split
        path.rename(path.with_name(f"v{path.name}"))
    truth = coco.annotations("val")
    truth.write_text(truth.read_text().replace('"file_name": "', '"file_name": "v'))


def class_twice(coco: CocoFolder) -> None:
    coco.data["categories"][0]["name"] = "car"


def one_stem(coco: CocoFolder) -> None:
    coco.data["images"][1]["file_name"] = "005.png"


def far_box(coco: CocoFolder) -> None:
    coco.data["annotations"][2]["bbox"] = [80, 10, 20, 20]


def no_box(coco: CocoFolder) -> None:
    coco.data["annotations"][0]["bbox"] = [1, 2]


def leads_out(coco: CocoFolder) -> None:
    coco.write()
    text = coco.annotations().read_text()
    coco.annotations().write_text(text.replace("005.jpg", "../train2017/005.jpg"))


def turned(coco: CocoFolder) -> None:
    coco.write()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees
    Image.new("RGB", (60, 40)).save(coco.images() / "007.jpg", exif=exif)


@pytest.mark.parametrize(
    ("spoil", "to", "words"),
    [
        (shared_name, "voc", "005.jpg occurs in both train and val"),
        (spaced_class, "yolo", r"class ' dog' has spaces around it"),
        (hashed_class, "voc", r"class '#dog' contains a #, which begins a comment in classes.txt"),
        (class_twice, "yolo", "class car is listed more than once"),
        (one_stem, "yolo", "images 005.jpg and 005.png would have the same annotation file"),
        (far_box, "yolo", r"annotation 4 of image 9: its box \[80, 10, 20, 20\] has no area inside"),
        (no_box, "voc", r"annotation 1: `bbox` is \[1, 2\]"),
        (leads_out, "yolo", "image 5: .* leads out of the image folder"),
        (turned, "yolo", r"007.jpg: is 40x60 pixels after EXIF rotation, but .* says 60x40"),
    ],
)
def test_data_that_the_new_layout_cannot_represent_is_refused_and_leaves_no_files(
    coco: CocoFolder, tmp_path: Path, spoil, to: Any, words: str
):
    spoil(coco)
    if not coco.annotations().exists():
        coco.write()
    with pytest.raises(UserError, match=words):
        convert(coco.root, tmp_path / "new", to=to, splits=OWN)
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new.*.partial"))


def test_bad_boxes_can_be_dropped(coco: CocoFolder, tmp_path: Path):
    far_box(coco)
    coco.write()
    lines = convert(coco.root, tmp_path / "yolo", to="yolo", splits={"train": "train"}, bad_boxes="drop")
    assert lines[0].endswith("left out: 1 bad boxes, 2 crowds or difficult objects")


def test_user_errors(voc: VocFolder, tmp_path: Path, capsys):
    (tmp_path / "new").mkdir()
    words = ["--data", str(voc.write()), "--to", "coco", "--output", str(tmp_path / "new")]
    with pytest.raises(SystemExit) as ended:
        ending.run(lambda: convert_data.main(words))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "new: exists already" in error and error.count("\n") == 1
    for words, text in (
        ({"to": "voc"}, "already has this layout"),
        ({"to": "coco", "splits": {"train": "trainval", "val": "all"}}, "a.jpg occurs in both train and val"),
        (
            {"to": "coco", "splits": {"train": "gone"}},
            r"gone.txt: no such list of images; name one of the existing lists \(all, test, trainval\)",
        ),
        ({"to": "coco", "splits": {}}, "name at least one split"),
    ):
        with pytest.raises(UserError, match=text):
            convert(voc.root, tmp_path / "other", **{"splits": {"train": "trainval"}, **words})
    with pytest.raises(UserError, match="unknown layout"):
        convert(tmp_path / "new", tmp_path / "other", to="coco", splits=OWN)


@pytest.mark.skipif(not BCCD.is_dir(), reason="needs the BCCD sample in ../shared/data")
def test_converted_blood_cells_equal_those_that_hotcoco_reads(tmp_path: Path):
    from hotcoco import COCO

    convert(BCCD, tmp_path / "coco", to="coco", splits={"train": "trainval", "val": "test"})
    whole = COCO.from_voc(str(BCCD)).dataset
    boxes: dict[int, list[Any]] = {image["id"]: [] for image in whole["images"]}
    for thing in whole["annotations"]:
        boxes[thing["image_id"]].append((["Platelets", "RBC", "WBC"][thing["category_id"] - 1], thing["bbox"], 0))
    theirs = {image["file_name"]: (image["width"], image["height"], boxes[image["id"]]) for image in whole["images"]}
    splits = {split: contents(tmp_path / "coco", split) for split in OWN}
    assert {split: len(images) for split, images in splits.items()} == {"train": 292, "val": 72}
    assert splits["train"] | splits["val"] == theirs
    convert(tmp_path / "coco", tmp_path / "yolo", to="yolo", splits={"val": "val"})
    convert(tmp_path / "yolo", tmp_path / "voc", to="voc", splits={"val": "val"})
    assert contents(tmp_path / "voc", "val") == contents(BCCD, "test")


def test_the_coco_sample_comes_back(coco_mini: Path, tmp_path: Path):
    convert(coco_mini, tmp_path / "voc", to="voc", splits=OWN)
    convert(tmp_path / "voc", tmp_path / "again", to="coco", splits=OWN)
    for split in OWN:
        assert contents(tmp_path / "again", split) == contents(coco_mini, split)


def test_images_are_links(voc: VocFolder, tmp_path: Path):
    convert(voc.write(), tmp_path / "coco", to="coco", splits={"train": "trainval"})
    assert (tmp_path / "coco" / "train" / "a.jpg").samefile(voc.root / "JPEGImages" / "a.jpg")
    assert cv2.imread(str(tmp_path / "coco" / "train" / "c.jpg")).shape == (40, 60, 3)
