"""The check of data sets: each planted fault is reported with its record and file, and nothing else is reported."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CocoFolder
from PIL import Image
from tool_exports import EXPORTS

from backbones.errors import UserError
from tools import check_data
from tools.checks.findings import CheckReport, ReportJson
from tools.cli.parsing import parse


@pytest.fixture
def clean(coco: CocoFolder) -> CocoFolder:
    """The small data set with an outline for each box. Train and val have images of the same names, not contents."""
    for annotation in coco.data["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    coco.write()
    return coco


def save(coco: CocoFolder, split: str = "train") -> None:
    coco.annotations(split).write_text(json.dumps(coco.data))


def found(*words: Any) -> ReportJson:
    """Return the content of the JSON file of the check of a data set."""
    options = parse(check_data.CheckGroups, description="", argv=[str(word) for word in words]).check
    return check_data.check(options).as_json()


def of_kind(result: ReportJson) -> dict[str, list[tuple[str, str]]]:
    """Return record and file of each problem by kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for problem in result["problems"]:
        kinds.setdefault(problem["kind"], []).append((problem["record"], problem["file"]))
    return kinds


def exif_turned(coco: CocoFolder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees
    Image.new("RGB", (60, 40)).save(coco.images() / "007.jpg", exif=exif)


def missing(coco: CocoFolder) -> None:
    (coco.images() / "007.jpg").unlink()


def truncated(coco: CocoFolder) -> None:
    path = coco.images() / "007.jpg"
    path.write_bytes(path.read_bytes()[:500])


def shared(coco: CocoFolder) -> None:
    (coco.images("train") / "007.jpg").write_bytes((coco.images("val") / "011.jpg").read_bytes())


def annotation(number: int, **change: Any) -> Callable[[CocoFolder], None]:
    return lambda coco: coco.data["annotations"][number].update(change)


def image(**change: Any) -> Callable[[CocoFolder], None]:
    return lambda coco: coco.data["images"][1].update(change)


def category(**change: Any) -> Callable[[CocoFolder], None]:
    return lambda coco: coco.data["categories"][1].update(change)


RUNS = {"size": [40, 60], "counts": [2400]}
SQUARE = [[10, 5, 30, 5, 30, 35, 10, 35]]
FIRST = "005.jpg"  # the image of the first annotation
FAULTS: dict[str, tuple[Callable[[CocoFolder], Any], str, str, str]] = {
    "missing file": (missing, "missing file", "image 7", "007.jpg"),
    "truncated file": (truncated, "undecodable file", "image 7", "007.jpg"),
    "other size": (image(width=61), "other size", "image 7", "007.jpg"),
    "turned by EXIF": (exif_turned, "EXIF orientation", "image 7", "007.jpg"),
    "in train and val": (shared, "image in both splits", "image 11", "011.jpg"),
    "image id twice": (image(id=5), "duplicate id", "image 5", "007.jpg"),
    "file name twice": (image(file_name=FIRST), "duplicate file name", "image 7", FIRST),
    "category id twice": (
        lambda coco: coco.data["categories"].append({"id": 18, "name": "wolf"}),
        "duplicate id", "category 18", "",
    ),
    "category name twice": (category(name="dog"), "duplicate category name", "category 3", ""),
    "box outside": (
        annotation(0, bbox=[50, 5, 20, 30], segmentation=[]),
        "box outside its image", "annotation 1", FIRST,
    ),
    "box far outside": (
        annotation(0, bbox=[70, 5, 9, 9], area=81, segmentation=[]),
        "box without area", "annotation 1", FIRST,
    ),
    "box without width": (
        annotation(0, bbox=[3, 3, 0, 9], area=0, segmentation=[]),
        "box without area", "annotation 1", FIRST,
    ),
    "boxes as fractions": (
        lambda coco: [
            each.update(bbox=[0.1, 0.2, 0.5 + number / 50, 0.4], area=0.2, segmentation=[])
            for number, each in enumerate(coco.data["annotations"])
        ],
        "boxes as fractions", "", "",
    ),
    "box of three": (annotation(0, bbox=[3, 3, 9]), "malformed field", "annotation 1", FIRST),
    "box elsewhere": (annotation(0, bbox=[25, 5, 20, 30]), "box beside its outline", "annotation 1", FIRST),
    "area too large": (annotation(0, area=60000), "wrong area", "annotation 1", FIRST),
    "area too small": (annotation(0, area=6), "wrong area", "annotation 1", FIRST),
    "area of a box": (annotation(0, area=9000, segmentation=[]), "wrong area", "annotation 1", FIRST),
    "area no number": (annotation(0, area="600"), "malformed field", "annotation 1", FIRST),
    "outline larger than the box": (
        annotation(0, area=1800, segmentation=SQUARE * 3),
        "wrong area", "annotation 1", FIRST,
    ),
    "unknown category": (annotation(2, category_id=4), "unknown category", "annotation 4", "009.jpg"),
    "unknown image": (annotation(2, image_id=4), "unknown image", "annotation 4", ""),
    "image id of text": (annotation(2, image_id="9"), "malformed field", "annotation 4", ""),
    "crowd of seven": (annotation(2, iscrowd=7), "malformed field", "annotation 4", "009.jpg"),
    "two points": (annotation(0, segmentation=[*SQUARE, [1, 1, 2, 2]]), "polygon of few points", "annotation 1", FIRST),
    "odd polygon": (annotation(0, segmentation=[[1, 1, 2, 2, 3, 3, 4]]), "malformed polygon", "annotation 1", FIRST),
    "polygon of text": (annotation(0, segmentation=[["a"] * 6]), "malformed polygon", "annotation 1", FIRST),
    "polygon with NaN": (
        annotation(0, segmentation=[[1, 1, 2, float("nan"), 3, 3]]),
        "malformed polygon", "annotation 1", FIRST,
    ),
    "flat outline": (annotation(0, segmentation=SQUARE[0]), "flat polygon", "annotation 1", FIRST),
    "two bad polygons": (
        annotation(0, segmentation=[[1, 1, 2, 2, 3, 3, 4], [1, 2, 3]]),
        "malformed polygon", "annotation 1", FIRST,
    ),
    "outline of text": (annotation(0, segmentation="a"), "malformed field", "annotation 1", FIRST),
    "short runs": (
        annotation(3, segmentation={**RUNS, "counts": [0, 400]}),
        "malformed run lengths", "annotation 8", "009.jpg",
    ),
    "turned runs": (
        annotation(3, segmentation={**RUNS, "size": [60, 40]}),
        "malformed run lengths", "annotation 8", "009.jpg",
    ),
    "broken text of runs": (
        annotation(3, segmentation={**RUNS, "counts": "0ab"}),
        "malformed run lengths", "annotation 8", "009.jpg",
    ),
    "leads out": (image(file_name="../val2017/007.jpg"), "file outside the folder", "image 7", "../val2017/007.jpg"),
    "height of text": (image(height="40"), "malformed field", "image 7", "007.jpg"),
    "no object": (lambda coco: coco.data["annotations"].append(5), "malformed field", "annotations[5]", ""),
    "no category": (
        lambda coco: coco.data.update(categories=[], annotations=[]),
        "empty list", "", "",
    ),
    "no list": (lambda coco: coco.data.pop("annotations"), "no list", "", ""),
}  # fmt: skip


INCIDENTAL = ("no outline", "unnamed image")  # remarks that some faults cause


def test_a_clean_set_is_clean(clean: CocoFolder):
    result = found("--data", clean.root)
    assert result["clean"]
    assert result["counts"] == {}  # images of the same names with other contents are no problem
    assert result["checked"]["train"] == {"images": 4, "annotations": 5}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_alone(clean: CocoFolder, fault: str):
    plant, kind, record, file = FAULTS[fault]
    plant(clean)
    save(clean)
    result = found("--data", clean.root)
    problems = {kind: where for kind, where in of_kind(result).items() if kind not in INCIDENTAL}
    assert not result["clean"]
    assert problems == {kind: [(record, file or str(clean.annotations()))]}


REMARKED: dict[str, tuple[Callable[[CocoFolder], Any], str, str]] = {
    "duplicate box": (
        lambda coco: coco.data["annotations"].append({**coco.data["annotations"][0], "id": 99}),
        "duplicate box", "annotation 99",
    ),
    "similar names": (
        lambda coco: coco.data["categories"][1].update(name=coco.data["categories"][0]["name"].upper() + " "),
        "similar class names", "category 3",
    ),
    "no objects": (
        lambda coco: [each.update(iscrowd=1) for each in coco.data["annotations"]],
        "no objects", "",
    ),
    "no width": (lambda coco: coco.data["images"][1].pop("width"), "no size", "image 7"),
    "annotation id twice": (annotation(1, id=1), "odd annotation id", "annotation 1"),
    "no annotation id": (lambda coco: coco.data["annotations"][0].pop("id"), "odd annotation id", "annotations[0]"),
    "backslash": (image(file_name="train\\007.jpg"), "foreign file name", "image 7"),
}  # fmt: skip


@pytest.mark.parametrize("remark", REMARKED)
def test_what_does_not_disturb_training_is_a_remark(clean: CocoFolder, remark: str):
    plant, kind, record = REMARKED[remark]
    plant(clean)
    for split in ("train", "val"):
        save(clean, split)
    result = found("--data", clean.root)
    assert result["clean"], result["problems"]
    assert [where for where, _ in of_kind(result)[kind]] == [record] * 2


def test_the_splits_of_the_options_are_checked(clean: CocoFolder):
    """A box without area in a third split is found only there; a split that does not exist is an error."""
    clean.images("val").rename(clean.root / "test2017")
    annotation(0, bbox=[3, 3, 0, 9], area=0, segmentation=[])(clean)
    clean.annotations("test").write_text(json.dumps(clean.data))
    assert of_kind(found("--data", clean.root, "--val-split", "test"))["box without area"] == [("annotation 1", FIRST)]
    with pytest.raises(UserError, match="instances_other"):
        found("--data", clean.root, "--val-split", "other")
    clean.annotations("val").unlink()
    assert of_kind(found("--data", clean.root))["no such split"] == [("", str(clean.root))]


def test_categories_that_differ_between_the_splits_are_found(clean: CocoFolder):
    category(name="puma")(clean)
    save(clean)
    result = found("--data", clean.root)
    assert [(p["kind"], p["record"]) for p in result["problems"]] == [("other category", "category 3")]
    assert result["problems"][0]["text"].startswith("is puma in train, ")


def test_all_faults_are_found_in_one_pass(clean: CocoFolder):
    together = (
        "truncated file",
        "area too small",
        "short runs",
        "category name twice",
        "unknown category",
        "no object",
    )
    for fault in together:
        FAULTS[fault][0](clean)
    annotation(1, bbox=[50, 0, 20, 8], segmentation=[])(clean)
    save(clean)
    (clean.images("val") / "009.jpg").unlink()
    kinds = of_kind(found("--data", clean.root))
    assert {FAULTS[fault][1] for fault in together} | {"missing file", "box outside its image"} <= kinds.keys()
    assert kinds["missing file"] == [("image 9", "009.jpg")]
    assert kinds["box outside its image"] == [("annotation 2", FIRST)]


def test_without_decoding_files_must_be_there_and_those_of_equal_size_are_compared(clean: CocoFolder):
    truncated(clean)
    (clean.images("val") / "011.jpg").write_bytes((clean.images("train") / "007.jpg").read_bytes())
    (clean.images("val") / FIRST).unlink()
    kinds = of_kind(found("--data", clean.root, "--decode", "false"))
    assert kinds == {"missing file": [("image 5", FIRST)], "image in both splits": [("image 11", "011.jpg")]}


def test_one_split_by_its_files(clean: CocoFolder):
    words = ("--train-annotations", clean.annotations(), "--train-images", clean.images())
    result = found(*words)
    # Boxes of 20x30, 8x8 and 25x20 pixels; the crowds do not count.
    boxes = {"classes": {"brush": 1, "car": 1, "dog": 1}, "sizes": {"small": 1.0, "medium": 0.0, "large": 0.0}}
    shapes = {"side": [9.4, 22.4, 24.3], "height_by_width": [0.82, 1.0, 1.45]}
    assert result["boxes"] == {"train": {**boxes, **shapes}}
    assert {name: result[name] for name in result if name not in ("boxes", "anchors")} == {
        **{"clean": True, "checked": {"train": {"images": 4, "annotations": 5}}, "per_class": {}},
        **{"counts": {}, "problems": []},
    }
    clean.annotations().write_text("{")
    assert of_kind(found(*words)) == {"no COCO file": [("", str(clean.annotations()))]}


def test_files_outside_the_folder_can_be_allowed(clean: CocoFolder):
    image(file_name="../val2017/007.jpg")(clean)
    save(clean)
    words = ("--train-annotations", clean.annotations(), "--train-images", clean.images())
    assert not found(*words)["clean"] and found(*words, "--allow-outside", "true")["clean"]


def test_more_threads_find_the_same(clean: CocoFolder):
    truncated(clean)
    assert found("--data", clean.root, "--workers", 1) == found("--data", clean.root, "--workers", 4)


def test_images_that_no_record_of_either_split_names_are_counted(clean: CocoFolder):
    shutil.copy(clean.images() / "007.jpg", clean.images() / "other.JPG")
    (clean.images() / ".hidden.jpg").touch()
    result = found("--data", clean.root)
    assert result["clean"]
    assert [problem["text"] for problem in result["problems"] if problem["kind"] == "unnamed image"] == [
        "1 image that no record names, such as other.JPG"
    ]
    # Two splits may share their folder.
    val = json.loads(clean.annotations("val").read_text())
    val["images"] = [{**each, "file_name": "other.JPG"} for each in val["images"][:1]]
    val["annotations"] = [each for each in val["annotations"] if each["image_id"] == val["images"][0]["id"]]
    clean.annotations("val").write_text(json.dumps(val))
    words = [f"--{split}-{what}" for split in ("train", "val") for what in ("annotations", "images")]
    values = (clean.annotations(), clean.images(), clean.annotations("val"), clean.images())
    pairs = [word for pair in zip(words, values, strict=True) for word in pair]
    assert "unnamed image" not in found(*pairs, "--decode", "false")["counts"]


def test_the_coco_sample_is_clean(coco_mini: Path):
    assert found("--data", coco_mini)["counts"] == {"unequal classes": 1}  # people are in most of COCO's images


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Class folders: two classes of two images in each split."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = random.integers(0, 256, (9, 7, 3), dtype=np.uint8)
                cv2.imwrite(str(tmp_path / "set" / split / name / f"{split}{number}.png"), pixels)
    return tmp_path / "set"


def test_class_folders(classes: Path):
    assert found("--data", classes)["clean"]
    (classes / "train" / "fox").mkdir()
    (classes / "train" / "fox" / "drawing.svg").touch()
    (classes / "train" / "cat" / "train0.png").write_bytes(b"none")
    np.save(classes / "train" / "dog" / "bands.npy", np.zeros((4, 4, 5), np.float32))
    np.save(classes / "train" / "dog" / "nan.npy", np.full((4, 4, 3), np.nan, np.float32))
    (classes / "val" / "dog" / "copy.png").write_bytes((classes / "train" / "dog" / "train1.png").read_bytes())
    assert of_kind(found("--data", classes)) == {
        "class without training images": [("", str(classes / "train" / "fox"))],
        "passed over": [("", str(classes / "train"))],
        "undecodable file": [("", "cat/train0.png")],
        "other channels": [("", "dog/bands.npy")],
        "NaN or infinity": [("", "dog/nan.npy")],
        "image in both splits": [("", "dog/copy.png")],
    }


def test_classes_that_cannot_be_learned_are_reported(classes: Path):
    (classes / "val").rename(classes / "test")
    (classes / "train" / "all").mkdir()
    for name in ("cat", "dog"):
        (classes / "train" / name).rename(classes / "train" / "all" / name)
    assert of_kind(found("--data", classes)) == {  # the test split is not meant
        "class of folders only": [("", str(classes / "train" / "all"))],
        "single class": [("", str(classes / "train"))],
    }
    (classes / "test" / "dog").rename(classes / "test" / "all")
    kinds = of_kind(found("--data", classes, "--val-split", "test"))
    assert kinds["class without training images"] == [("", str(classes / "test" / "cat"))]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Images beside label maps of two classes: three in each split."""
    root, random = tmp_path / "maps", np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 256, (9, 7, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{split}{number}.png"), pixels)
            cv2.imwrite(str(root / "labels" / split / f"{split}{number}.png"), pixels[..., 0] % 2)
    (root / "classes.txt").write_text("sky\nroad\n")
    return root


def test_label_maps(labels: Path):
    assert found("--data", labels)["clean"]
    maps = labels / "labels" / "train"
    cv2.imwrite(
        str(maps / "train0.png"), np.full((9, 8), 2, np.uint8)
    )  # wider than the image, and with an unknown class
    (maps / "train1.png").write_bytes(b"none")
    (maps / "train2.png").rename(maps / "orphan.png")
    (labels / "images" / "val" / "val0.png").write_bytes(b"none")
    assert of_kind(found("--data", labels)) == {
        "image without label map": [("", "train2.png")],
        "label map without image": [("", "labels/train/orphan.png")],
        "label map of other size": [("", "train0.png")],
        "unknown label": [("", "train0.png")],
        "unusable label map": [("", "train1.png")],
        "undecodable file": [("", "val0.png")],
    }
    (labels / "classes.txt").write_text("sky\nsky\n")
    assert of_kind(found("--data", labels))["class list"] == [("", str(labels / "classes.txt"))]


def test_label_maps_that_teach_nothing_are_reported(labels: Path):
    maps = [path for split in ("train", "val") for path in sorted((labels / "labels" / split).iterdir())]
    (labels / "classes.txt").write_text("sky\nroad\nsea\n")
    (labels / "images" / "val" / "notes.txt").touch()
    assert of_kind(found("--data", labels)) == {
        "class without training pixels": [("", str(labels / "images" / "train"))],
        "class without pixels": [("", str(labels / "images" / "val"))],
        "passed over": [("", str(labels / "images" / "val"))],
    }
    for path in maps[:3]:
        cv2.imwrite(str(path), np.full((9, 7), 255, np.uint8))
    cv2.imwrite(str(maps[3]), np.full((9, 7), 255, np.uint8))
    cv2.imwrite(str(maps[4]), np.full((9, 7), 255, np.uint8))
    result = found("--data", labels)
    texts = {problem["kind"]: problem["text"] for problem in result["problems"]}
    assert texts["nothing to learn or measure"] == "all pixels of the label maps are ignored"
    assert texts["mostly ignored"] == "67% of all pixels are ignored"  # two of three label maps of val
    # With two classes, the same files are masks of class 1.
    (labels / "classes.txt").write_text("sky\nroad\n")
    cv2.imwrite(str(maps[0]), np.zeros((9, 7), np.uint8))
    cv2.imwrite(str(maps[5]), np.zeros((9, 7), np.uint8))
    assert found("--data", labels)["clean"]


def test_the_command_prints_a_table_writes_json_and_sets_its_status(clean: CocoFolder, script, tmp_path: Path):
    missing(clean)
    annotation(0, area=6)(clean)
    save(clean)
    done = script("check_data.py", "--data", clean.root, "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert re.search(r"missing file +1  train: image 7, 007\.jpg: not in", done.stdout)
    assert "train: annotation 1, 005.jpg: `area` is 6, but the outline has 600 pixels" in done.stdout
    assert "2 problems (train: 4 images, 5 annotations; val: 4 images, 5 annotations)" in done.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["counts"] == {"wrong area": 1, "missing file": 1}
    with pytest.raises(UserError, match=r"out\.json: exists already"):
        check_data.main(["--data", str(clean.root), "--json", str(tmp_path / "out.json")])


def test_a_clean_set_has_status_0(clean: CocoFolder, capsys: pytest.CaptureFixture[str]):
    check_data.main(["--data", str(clean.root), "--decode", "false"])
    assert "clean (train: 4 images, 5 annotations; val: 4 images, 5 annotations)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "name a data set"),
        (("--data", "nowhere"), "--data nowhere: no such folder"),
        (("--data", "."), "unknown layout"),
        (("--data", ".", "--truth", "labels"), r"--truth labels: \. has no label maps in a layout of docs/DATA\.md"),
        (("--data", "shards"), "tar shards are not checked"),
        (("--train-annotations", "a.json"), "must be given together with --train-images"),
        (("--train-annotations", "a.json", "--train-images", "."), "a.json: no such file"),
        (("--train-annotations", "a.json", "--train-images", "nowhere"), "nowhere: no such folder"),
        (("--data", ".", "--workers", "0"), "--workers 0: must be above 0"),
    ],
)
def test_user_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], text: str):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "train-000000.tar").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=text):
        found(*words)


def test_images_that_look_nearly_the_same_are_named_across_splits(clean: CocoFolder, capsys):
    picture = cv2.imread(str(clean.images("train") / "007.jpg"))
    cv2.imwrite(str(clean.images("val") / "011.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
    result = found("--data", clean.root)
    assert result["clean"] and of_kind(result) == {"near-equal image": [("image 11", "011.jpg")]}
    (problem,) = result["problems"]
    assert problem["text"] == "looks nearly the same as 007.jpg of train"


def test_an_absent_validation_split_beside_a_test_split_is_reported(tmp_path: Path):
    EXPORTS["roboflow-voc"][1](tmp_path)
    (tmp_path / "valid").rename(tmp_path / "test")
    report = check_data.check(check_data.CheckOptions(data=str(tmp_path)))
    assert list(report.checked) == ["train"]
    (problem,) = [problem for problem in report.problems if problem.kind == "no such split"]
    assert problem.text == ("the data set has the splits test, train; name one with --val-split, or use --val-fraction")


def test_one_image_is_counted_in_the_singular():
    report = CheckReport(checked={"train": {"classes": 1, "images": 1}, "val": {"images": 0, "annotations": 2000}})
    assert report.table() == "clean (train: 1 class, 1 image; val: 0 images, 2,000 annotations)"
