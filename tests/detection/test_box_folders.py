"""Pascal VOC's and YOLO's layouts: reading, errors, and the same errors in the check of data sets."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT, VocFolder
from hostile import mutants, require_one_line
from PIL import Image

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.convert import convert
from detection.data.dataset import CocoDetection
from detection.data.folders import layout_of, open_split, read_annotations
from detection.data.layouts.yolo import POSES, SIXTH
from detection.options import DetectionDataOptions
from detection.transforms import Augment
from tools import check_data, eval_coco
from tools.cli import ending
from tools.cli.parsing import parse
from tools.engine.bad_images import BadImages
from tools.tasks.detection import describe_split
from tools.tasks.detection_data import open_val
from tools.tasks.options import TrainDetectorOptions

SPLITS = ("--train-split", "trainval", "--val-split", "test")


def read(root: Path, split: str, **options: Any) -> CocoAnnotations:
    return CocoAnnotations.of(open_split(root, split, **options), **options)


def problems(*words: Any) -> list[tuple[str, str, str, str]]:
    """Return kind, record, file and text of each problem that the check finds."""
    options = parse(check_data.CheckGroups, description="", argv=[str(word) for word in words]).check
    report = check_data.check(options)
    return [(p["kind"], p["record"], p["file"], p["text"]) for p in report.as_json()["problems"]]


# --- Pascal VOC ---


def test_difficult_objects_are_regions_to_ignore(voc: VocFolder):
    data = CocoDetection(read(voc.write(), "test"), Augment("eval"))
    image, target = data[0]
    assert image.shape == (3, 40, 60)
    assert target["boxes"].shape == (0, 4) and target["ignore"].tolist() == [[4, 4, 9, 9]]
    _, target = CocoDetection(read(voc.root, "trainval"), Augment("eval"))[0]
    assert target["boxes"].tolist() == [[10, 5, 30, 35], [0, 0, 60, 40]] and target["labels"].tolist() == [2, 1]


def test_classes_come_from_all_annotations_or_from_a_list(voc: VocFolder):
    assert read(voc.write(), "test").categories.names == ("cat", "dog")
    (voc.root / "classes.txt").write_text("dog\nfox\ncat\n")
    assert read(voc.root, "test").categories.names == ("dog", "fox", "cat")
    assert read(voc.root, "test").labels.tolist() == [3]


def test_fractions_of_the_sides_are_refused(voc: VocFolder):
    """VOC counts from 1, so that fractions become negative when they are read."""
    voc.objects = {name: [("dog", (0.1, 0.2, 0.6, 1.0))] for name in ("a", "c")} | {"b": []}
    with pytest.raises(UserError, match="most boxes lie between 0 and 1, as fractions of the sides"):
        read(voc.write(), "trainval")


def test_lists_of_one_class_have_a_flag_after_the_name(voc: VocFolder):
    voc.objects["d 1"] = [("dog", (1, 1, 5, 5))]
    voc.lists["all"] += "d 1 -1\n"
    voc.lists["d"] = "d 1\n"
    names = [["a.jpg", "b.jpg", "c.jpg", "d 1.jpg"], ["d 1.jpg"]]
    assert [read(voc.write(), split).file_names.tolist() for split in ("all", "d")] == names


def test_the_image_has_the_name_of_its_annotation(voc: VocFolder):
    """Annotators copy files, so `<filename>` counts only if there is no image with the annotation's own name."""
    voc.write()
    path = voc.xml("b")
    path.write_text(path.read_text().replace("b.jpg", "what was it"))
    assert read(voc.root, "test").file_names.tolist() == ["b.jpg"]
    (voc.root / "JPEGImages" / "b.jpg").rename(voc.root / "JPEGImages" / "other.png")
    path.write_text(path.read_text().replace("what was it", "other.png"))
    assert read(voc.root, "test").file_names.tolist() == ["other.png"]


def test_a_missing_size_is_read_from_the_image(voc: VocFolder):
    voc.write()
    path = voc.xml("b")
    path.write_text(path.read_text().replace("<width>60</width>", "<width>0</width>"))
    assert read(voc.root, "test").sizes.tolist() == [[40, 60]]


BOMB = (
    "<!DOCTYPE a [<!ENTITY l0 'lol'>" + "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10)) + "]>"
)
OUTSIDE = "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"


def swap(before: str, after: str) -> Callable[[VocFolder], None]:
    def apply(voc: VocFolder) -> None:
        text = voc.xml("b").read_text()
        assert before in text
        voc.xml("b").write_text(text.replace(before, after))

    return apply


def of_list(text: str) -> Callable[[VocFolder], Any]:
    return lambda voc: (voc.root / "ImageSets" / "Main" / "test.txt").write_text(text)


def taken(voc: VocFolder) -> None:
    """Give one image two annotations."""
    of_list("b\nd\n")(voc)
    voc.xml("d").write_text(voc.xml("b").read_text())


def led_out(voc: VocFolder) -> None:
    """Name an image outside the folder, where no image of the annotation's own name is inside it."""
    swap("b.jpg", "../b.jpg")(voc)
    (voc.root / "JPEGImages/b.jpg").rename(voc.root / "b.jpg")


VOC_FAULTS: dict[str, tuple[Callable[[VocFolder], Any], str, str]] = {
    "cut": (swap("</annotation>", ""), "b.xml", "is not valid XML"),
    "other root": (lambda voc: voc.xml("b").write_text("<html/>"), "b.xml", "begins with <html>"),
    "bomb": (lambda voc: voc.xml("b").write_text(BOMB + "<annotation>&l9;</annotation>"), "b.xml", "document type"),
    "entity": (lambda voc: voc.xml("b").write_text(OUTSIDE + "<annotation>&x;</annotation>"), "b.xml", "document type"),
    "nested": (swap("<object>", "<a>" * 99 + "</a>" * 99 + "<object>"), "b.xml", "nested more than 20 levels deep"),
    "encoding": (
        lambda voc: voc.xml("b").write_bytes(b"<?xml version='1.0' encoding='no'?><a/>"),
        "b.xml",
        "is not valid XML",
    ),
    "no name": (swap("<name>cat</name>", ""), "b.xml", "object 1: has no <name>"),
    "no number": (swap("<xmin>5", "<xmin>NaN"), "b.xml", "object 1: its <xmin> is 'NaN'"),
    "huge": (swap("<xmax>9", "<xmax>1e999999"), "b.xml", "object 1: its <xmax> is '1e999999'"),
    "no box": (swap("bndbox>", "box>"), "b.xml", "object 1: its <xmin> is ''"),
    "difficult": (swap("<difficult>1", "<difficult>yes"), "b.xml", "object 1: <difficult> is 'yes'"),
    "without area": (swap("<xmax>9", "<xmax>4"), "b.xml", "object 1"),
    "size": (swap("<width>60", "<width>-60"), "b.xml", "<size> holds '-60'"),
    "leads out": (led_out, "b.xml", "<filename> '../b.jpg' leads out of JPEGImages"),
    "another's": (
        swap("b.jpg", "a.jpg"),
        "b.xml",
        "<filename> is a.jpg, but JPEGImages/b.jpg has the name of this annotation file",
    ),
    "taken": (taken, "d.xml", "names the same image b.jpg as b.xml"),
    "absent image": (lambda voc: (voc.root / "JPEGImages/b.jpg").unlink(), "b.xml", "there is no JPEGImages/b.jpg"),
    "absent annotation": (lambda voc: voc.xml("b").unlink(), "test.txt", "line 1: there is no Annotations/b.xml"),
    "listed twice": (of_list("b\nb\n"), "test.txt", "line 2: b is a duplicate"),
    "list leads out": (of_list("b\n../b\n"), "test.txt", r"line 2: '\.\./b' points outside"),
    "unknown class": (lambda voc: (voc.root / "classes.txt").write_text("dog\n"), "b.xml", "its class cat is not in"),
}


@pytest.mark.parametrize("path", ["/home/me/set/b.jpg", "../JPEGImages/b.jpg", "C:\\set\\b.jpg"])
def test_paths_of_another_machine_give_way_to_the_image_of_the_same_name(voc: VocFolder, path: str):
    voc.write()
    swap("b.jpg", path)(voc)
    data = read(voc.root, "test")
    assert data.file_names.tolist() == ["b.jpg"]
    notes = {"paths in <filename> replaced by the image of the same name as the XML file": 1}
    assert data.notes == (notes if "/" in path else {})


@pytest.mark.parametrize("fault", VOC_FAULTS)
def test_voc_faults_are_refused_by_training_and_found_by_the_check(voc: VocFolder, fault: str):
    plant, file, words = VOC_FAULTS[fault]
    plant(voc) if voc.write() else None
    with pytest.raises(UserError, match=words) as error:
        read(voc.root, "test")
    assert str(error.value).startswith(str(voc.root)) and file in str(error.value) and "\n" not in str(error.value)
    found = problems("--data", voc.root, *SPLITS)
    assert any(file in p[2] or p[2] == "b.jpg" for p in found), found


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            lambda voc: (voc.root / "ImageSets/Main/test.txt").unlink(),
            r"test.txt: no such list of images; name one of the existing lists \(all, tr",
        ),
        (of_list("\n"), "lists no image"),
        (lambda voc: (voc.root / "ImageSets/Main/test.txt").write_bytes(b"\xff"), "is not UTF-8 text"),
        (lambda voc: (voc.root / "classes.txt").write_text("\n"), "contains no class names"),
        (lambda voc: (voc.root / "classes.txt").write_text("cat\ncat\n"), "class cat is listed more than once"),
        (lambda voc: (voc.root / "JPEGImages").rename(voc.root / "Images"), "JPEGImages: no such folder"),
    ],
)
def test_voc_faults_of_whole_lists_and_folders_are_refused(voc: VocFolder, fault, words: str):
    voc.write()
    fault(voc)
    with pytest.raises(UserError, match=words):
        read(voc.root, "test")
    with pytest.raises(UserError, match=words):
        problems("--data", voc.root, *SPLITS)


REMARKS_OF_VOC = ["no objects"]


def test_good_folders_have_no_problem_and_an_image_in_two_splits_is_found(voc: VocFolder):
    """The test split has no objects, which is a remark. Plain grey images are not compared with one another."""
    assert [p[0] for p in problems("--data", voc.write(), *SPLITS)] == REMARKS_OF_VOC
    kinds = {p[0] for p in problems("--data", voc.root, "--train-split", "all", "--val-split", "test")}
    assert {"image in both splits", "no objects"} <= kinds <= {"image in both splits", *REMARKS_OF_VOC}


def test_voc_with_label_maps_can_be_checked_for_both(voc: VocFolder):
    voc.write()
    for folder in ("ImageSets/Segmentation", "SegmentationClass"):
        (voc.root / folder).mkdir()
    for split, names in (("trainval", "ac"), ("test", "b")):
        (voc.root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            cv2.imwrite(str(voc.root / "SegmentationClass" / f"{name}.png"), np.full((40, 60), 77, np.uint8))
    assert [p[0] for p in problems("--data", voc.root, *SPLITS)] == REMARKS_OF_VOC
    assert {p[0] for p in problems("--data", voc.root, *SPLITS, "--truth", "labels")} == {"unknown label"}


# --- YOLO ---


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Write two training images of 60x40 pixels and one for validation in YOLO's layout."""
    root = tmp_path / "yolo"
    for split, names in (("train", "ab"), ("val", "c")):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for name in names:
            picture = np.full((40, 60, 3), ord(name), np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{name}.jpg"), picture)
    (root / "labels/train/a.txt").write_text("1 0.5 0.5 0.5 0.25\n\n0 0.1 0.1 0.2 0.2\n")
    (root / "labels/val/c.txt").write_text("0 0.5 0.5 1 1\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n")
    return root


def test_boxes_are_fractions_of_the_images_sides(yolo: Path):
    """Centre 30 of 60 and 20 of 40, 30 wide and 10 high; an image without a label file is a negative."""
    data = read(yolo, "train")
    assert data.file_names.tolist() == ["a.jpg", "b.jpg"] and data.empty().tolist() == [False, True]
    assert data.of_image(0)[0].tolist() == [[15, 15, 45, 25], [0, 0, 12, 8]]
    assert data.labels.tolist() == [2, 1] and data.categories.names == ("cat", "dog")


@pytest.mark.parametrize("names", ["{0: cat, 1: dog}", "\n- cat\n- dog", "[cat, dog]"])
def test_classes_come_from_either_file(yolo: Path, names: str):
    (yolo / "data.yaml").write_text(f"names: {names}\n")
    assert read(yolo, "val").categories.names == ("cat", "dog")
    (yolo / "classes.txt").write_text("\ufeff# animals\ncat\n\ndog # tame\n")
    (yolo / "data.yaml").unlink()
    assert read(yolo, "val").categories.names == ("cat", "dog")


def test_roboflows_folders_polygons_and_subfolders_are_read(yolo: Path):
    (yolo / "valid" / "images" / "far").mkdir(parents=True)
    (yolo / "valid" / "labels" / "far").mkdir(parents=True)
    (yolo / "images/val/c.jpg").rename(yolo / "valid/images/far/c.JPG")
    (yolo / "valid/labels/far/c.txt").write_text("1 0.5 0.25 0.75 0.5 0.25 0.75\n")
    data = read(yolo, "valid")
    assert data.file_names.tolist() == ["far/c.JPG"] and data.boxes.tolist() == [[15, 10, 45, 30]]


def test_other_names_of_the_validation_split_are_found_and_test_is_not(yolo: Path, voc: VocFolder):
    for kind in ("images", "labels"):
        (yolo / kind / "val").rename(yolo / kind / "valid")
    assert read(yolo, "val").file_names.tolist() == ["c.jpg"]
    for kind in ("images", "labels"):
        (yolo / kind / "valid").rename(yolo / kind / "test")
    with pytest.raises(UserError):
        read(yolo, "val")
    root = voc.write()
    (root / "ImageSets" / "Main" / "dev.txt").write_text("b\n")
    assert read(root, "val").file_names.tolist() == ["b.jpg"]


def test_sizes_are_those_after_exif_rotation(yolo: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(yolo / "images/val/c.jpg", exif=exif)
    data = read(yolo, "val")
    assert data.sizes.tolist() == [[60, 40]]
    assert CocoDetection(data, Augment("eval"))[0][0].shape == (3, 60, 40)


def label(text: str) -> Callable[[Path], Any]:
    return lambda root: (root / "labels/val/c.txt").write_text(text)


YOLO_FAULTS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "four": (label("0 0.5 0.5 1\n"), "c.txt", "line 1: has 4 values"),
    "six": (
        label("0 0.5 0.5 1 1 7.5\n"),
        "c.txt",
        "line 1: has 6 values; .*a sixth value must be a confidence",
    ),
    "text": (label("0 0.5 0.5 1 1\ncat 0.5 0.5 1 1\n"), "c.txt", "line 2: 'cat 0.5 0.5 1 1' is not"),
    "class": (label("2 0.5 0.5 1 1\n"), "c.txt", r"line 1: class 2 is not one of the 2 class numbers 0 to 1"),
    "part of a class": (label("0.5 0.5 0.5 1 1\n"), "c.txt", "line 1: class 0.5 is not one of"),
    "pixels": (label("0 30 20 10 10\n"), "c.txt", "line 1: 30 20 10 10 has values outside 0..1"),
    "NaN": (label("0 nan 0.5 1 1\n"), "c.txt", "line 1: nan 0.5 1 1 has values outside 0..1"),
    "far outside": (label("0 0.5 0.5 1 2.5\n"), "c.txt", "line 1: 0.5 0.5 1 2.5 has values outside 0..1"),
    "negative": (label("0 0.5 0.5 -0.005 0.5\n"), "c.txt", "line 1: has a negative width"),
    "without area": (label("0 0.5 0.5 0 0.5\n"), "c.txt", "line 1"),
    "bytes": (lambda root: (root / "labels/val/c.txt").write_bytes(b"\xff\xfe0"), "c.txt", "is not UTF-8 text"),
    "absent image": (
        lambda root: (root / "images/val/c.jpg").rename(root / "images/val/d.jpg"),
        "c.txt",
        "no image of",
    ),
    "cut image": (lambda root: (root / "images/val/c.jpg").write_bytes(b"\xff\xd8"), "c.jpg", "does not decode"),
    "two images": (
        lambda root: (root / "images/val/c.png").write_bytes((root / "images/val/c.jpg").read_bytes()),
        "c.jpg",
        "c.png has the same name except for the suffix",
    ),
}


def test_boxes_partly_outside_are_clipped_and_counted(yolo: Path):
    """Centre 0.98 and width 0.1 of 60 pixels: 55.8 to 61.8, which is clipped at 60, more than a pixel."""
    label("0 0.98 0.5 0.1 1.02\n1 1.02 0.5 0.1 1\n")(yolo)
    data = read(yolo, "val")
    assert data.boxes[0].tolist() == pytest.approx([55.8, 0, 60, 40]) and data.clipped == 2
    found = problems("--data", yolo)
    outside = {("box outside its image", "line 1"), ("box outside its image", "line 2")}
    assert {(p[0], p[1]) for p in found if p[0] != "near-equal image"} == outside  # the images are plain grey


def test_lines_far_outside_can_be_dropped_and_are_counted(yolo: Path):
    label("0 0.5 0.5 1 1\n0 30 20 10 10\n1 0.5 0.5 -0.1 0.5\n")(yolo)
    truth = open_split(yolo, "val", bad_boxes="drop")
    assert len(truth.data["annotations"]) == 1 and truth.notes == {"boxes far outside their image dropped": 2}
    options = DetectionDataOptions(data=str(yolo), bad_boxes="drop")
    assert len(read_annotations(options, "val").boxes) == 1


def test_macos_files_beside_labels_are_passed_over(yolo: Path):
    (yolo / "labels/val/._c.txt").write_bytes(b"\0\5\x16\7")
    (yolo / "images/val/._c.jpg").write_bytes(b"\0\5\x16\7")
    assert read(yolo, "val").file_names.tolist() == ["c.jpg"]


def test_poses_are_read_as_their_boxes_and_counted(yolo: Path):
    """Without `kpt_shape` the nine values would be a polygon of four points."""
    label("1 0.5 0.5 0.5 0.5 0.1 0.1 0.9 0.9\n")(yolo)
    assert read(yolo, "val").boxes.tolist() == [[6, 4, 54, 36]]  # around (0.5, 0.5), (0.5, 0.5), (0.1, 0.1), (0.9, 0.9)
    with (yolo / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 2]\n")
    data = read(yolo, "val")
    assert data.boxes.tolist() == [[15, 10, 45, 30]]
    assert data.notes == {"poses read as boxes, without their points": 1}
    assert ("other notation", "poses read as boxes, without their points: 1") in [
        (p[0], p[3]) for p in problems("--data", yolo)
    ]
    label("1 0.5 0.5 0.5 0.5 0.1 0.1 0.9 0.9 0.75\n")(yolo)
    confident = read(yolo, "val")
    assert confident.boxes.tolist() == [[15, 10, 45, 30]] and list(confident.notes) == [POSES, SIXTH]
    (yolo / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: 17\n")
    with pytest.raises(UserError, match="`kpt_shape` is 17; write"):
        read(yolo, "val")


@pytest.mark.parametrize("orientation", [1, 6])
def test_sizes_of_tiff_files_with_an_orientation(yolo: Path, orientation: int):
    """OpenCV turns TIFF files as their orientation says in any case, so the size is that of the turned image."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (60, 40)).save(yolo / "images/val/c.tif", exif=exif)
    (yolo / "images/val/c.jpg").unlink()
    turned = orientation == 6
    data = read(yolo, "val")
    assert data.sizes.tolist() == [[60, 40] if turned else [40, 60]]
    assert CocoDetection(data, Augment("eval"))[0][0].shape == ((3, 60, 40) if turned else (3, 40, 60))


@pytest.mark.parametrize("fault", YOLO_FAULTS)
def test_yolo_faults_are_refused_by_training_and_found_by_the_check(yolo: Path, fault: str):
    plant, file, words = YOLO_FAULTS[fault]
    plant(yolo)
    with pytest.raises(UserError, match=words) as error:
        read(yolo, "val")
    assert str(error.value).startswith(str(yolo)) and file in str(error.value) and "\n" not in str(error.value)
    found = problems("--data", yolo)
    assert any(file in p[2] or p[2] == "c.jpg" for p in found), found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("names: [cat", "is not valid YAML"),
        ("nc: 2", "`names` is neither a list of class names"),
        ("names: {0: cat, 3: dog}", "`names` has no name for class 1, 2, but one for class 3; add the missing names"),
        ("nc: 3\nnames: [cat, dog]", "`nc` is 3, but `names` lists 2 classes"),
        ("names: [cat, cat]", "class cat is listed more than once"),
        ("names: []", "contains no class names"),
        ("names: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("names: [dog, cat]", "lists other classes than"),
    ],
)
def test_malformed_class_lists_are_refused(yolo: Path, content: str, words: str):
    (yolo / "classes.txt").write_text("cat\ndog\n")
    (yolo / "data.yaml").write_text(content)
    with pytest.raises(UserError, match=words):
        read(yolo, "val")


def test_layouts_are_recognised(yolo: Path, voc: VocFolder, tmp_path: Path):
    assert [layout_of(root).name for root in (yolo, voc.write())] == ["yolo", "voc"]
    maps = tmp_path / "maps"  # a folder of images and label maps resembles YOLO's layout
    (maps / "labels" / "train").mkdir(parents=True)
    cv2.imwrite(str(maps / "labels" / "train" / "a.png"), np.zeros((4, 4), np.uint8))
    (maps / "classes.txt").write_text("cat\n")
    assert layout_of(maps) is None
    with pytest.raises(UserError, match=r"unknown layout; expected YOLO's .* \(lacks labels as"):
        open_split(maps, "train")
    with pytest.raises(
        UserError, match=r"images/valid: no such folder of images; name one of the folders in .* \(train, val\)"
    ):
        read(yolo, "valid")
    (yolo / "labels/val/c.txt").unlink()
    (yolo / "labels/val").rmdir()
    with pytest.raises(UserError, match="labels/val: no such folder, but the images in"):
        read(yolo, "val")


def test_files_that_are_not_images_are_counted(yolo: Path, voc: VocFolder):
    voc.write()
    for folder in (yolo / "images/train", voc.root / "JPEGImages"):
        for name in ("a.xyz", "b.xyz", "none", ".hidden"):
            (folder / name).touch()
    for root, split in ((yolo, "train"), (voc.root, "trainval")):
        data = CocoDetection(read(root, split), Augment("eval"))
        assert "; files passed over: 2 .xyz, 1 without suffix" in describe_split(data)
        found = problems("--data", root, "--train-split", split, "--val-split", split, "--decode", "false")
        assert [text for kind, _, _, text in found if kind == "passed over"] == [
            "files that are not read: 2 .xyz, 1 without suffix"
        ]


# --- training ---


def test_missing_images_can_be_skipped(yolo: Path, voc: VocFolder, tmp_path: Path):
    """The objects of skipped images count as missed."""
    voc.write()
    (voc.root / "JPEGImages/a.jpg").unlink()
    (yolo / "images/train/a.jpg").unlink()
    for root, split, boxes in ((voc.root, "trainval", 2), (yolo, "train", 2)):
        data = CocoDetection(read(root, split, absent_images="keep"), Augment("eval"))
        assert len(data) == 2 and len(data.annotations.boxes) == boxes
        bad = BadImages(tmp_path, skip=True, seed=0)
        assert bad.omitting(data)[0] is None and bad.omitting(data)[1] is not None
        assert bad.files()[-1].endswith("a.jpg")


def test_a_run_on_voc_computes_vocs_and_cocos_metrics_and_equals_its_conversion(voc: VocFolder, script, tmp_path: Path):
    shapes = ROOT / "detection" / "recipes" / "shapes.yaml"
    words = ("--config", shapes, "--min-size", 64, "--max-size", 64, "--fpn-channels", 32, "--workers", 0)
    voc.write()
    run = (*words, "--data", voc.root, "--val-split", "all", "--eval-only")
    done = script("train_det.py", *run, "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Pascal VOC's mAP at IoU 0.5" in done.stdout and "(all points)" in done.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for figures in (results, *results["per_class"].values()):
        assert {"VOC07", "VOC12"} <= figures.keys()
    convert(voc.root, tmp_path / "coco", to="coco", splits={"val": "all"})
    files = {
        "--annotations": tmp_path / "coco" / "annotations" / "instances_val.json",
        "--detections": tmp_path / "run" / "detections.json",
        "--output": tmp_path / "again.json",
    }
    eval_coco.main([f"{name}={path}" for name, path in files.items()] + ["--protocol=voc"])
    again = json.loads((tmp_path / "again.json").read_text())
    assert {name: results[name] for name in again} == again


def test_user_errors_print_one_line(voc: VocFolder, capsys: pytest.CaptureFixture[str]):
    voc.write()
    swap("<xmin>5", "<xmin>five")(voc)
    options = parse(TrainDetectorOptions, description="", argv=["--data", str(voc.root), "--val-split", "test"])
    with pytest.raises(SystemExit) as ended:
        ending.run(lambda: open_val(options))
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("error: ") and "b.xml: object 1: its <xmin> is 'five'" in line


def test_unknown_layouts_are_refused_and_cocos_splits_can_be_named(coco, tmp_path: Path):
    coco.write()
    coco.annotations("val").rename(coco.root / "annotations" / "instances_test2017.json")
    coco.images("val").rename(coco.root / "test2017")
    options = parse(TrainDetectorOptions, description="", argv=["--data", str(coco.root), "--val-split", "test"])
    assert open_val(options).annotations.folder.name == "test2017"
    (tmp_path / "odd").mkdir()
    options = parse(TrainDetectorOptions, description="", argv=["--data", str(tmp_path / "odd")])
    with pytest.raises(UserError, match=r"unknown layout; .* Pascal VOC's .* YOLO's .* \(lacks data.yaml or"):
        open_val(options)


def test_very_long_names_in_lists_are_refused_in_one_line(voc: VocFolder) -> None:
    voc.write()
    (voc.root / "ImageSets" / "Main" / "trainval.txt").write_text("[" * 2000)
    with pytest.raises(UserError, match=r"line 1: there is no Annotations/\[{157}\.\.\.\.xml") as caught:
        read(voc.root, "trainval")
    require_one_line(caught.value, voc.root)
    voc.write()
    (voc.root / "classes.txt").write_text(f"cat\n{'[' * 2500}\n")
    with pytest.raises(UserError, match=r"its class dog is not in classes\.txt \(cat, \[{157}\.\.\.\)") as caught:
        read(voc.root, "trainval")
    require_one_line(caught.value, voc.root)


# --- mutants ---


@pytest.mark.parametrize("layout", ["voc", "yolo"])
def test_mutants_are_read_or_refused_with_the_name_of_a_file(layout: str, voc: VocFolder, yolo: Path):
    """The check finds every fault that training refuses, and only UserErrors are raised."""
    voc.difficult = {}
    (voc.root / "classes.txt").write_text("cat\ndog\n") if voc.write() else None
    root, split, files = {
        "voc": (voc.root, "trainval", ["Annotations/a.xml", "ImageSets/Main/trainval.txt", "classes.txt"]),
        "yolo": (yolo, "train", ["labels/train/a.txt", "data.yaml"]),
    }[layout]
    outcomes = []
    for name in files:
        for _ in mutants(root / name, 30):
            try:
                data = read(root, split)
                assert (data.boxes >= 0).all() and np.isfinite(data.boxes).all() and (data.labels >= 1).all()
                outcomes.append(True)
            except UserError as error:
                require_one_line(error, root)
                outcomes.append(False)
                check = ("--data", root, "--train-split", split, "--val-split", split, "--decode", "false")
                with contextlib.suppress(UserError):  # for a fault of a whole class list or image list
                    assert problems(*check)
    assert 0.05 < np.mean(outcomes) < 0.9
