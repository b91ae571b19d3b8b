"""Layouts of classification data: CSV files, names of files, folders without splits, exports of other tasks."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_exports import litter

import classification
from backbones.errors import UserError
from classification.data.folder_source import FolderSource
from classification.data.layouts import REGISTERED, has_split, read_split
from classification.data.listing import ClassListing, NoSplitError
from classification.data.names import ClassNames
from classification.data.reading import Reading
from classification.data.shard_writer import make_shards
from tools import check_data


def images(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(root / name)
    return root


def labels(listing: ClassListing) -> dict[str, str | list[str]]:
    """Class of each image, or its classes in a multi-label data set, by path."""
    names = [os.fsdecode(file) for file in listing.files]
    if not listing.multi_label:
        return {name: listing.names[number] for name, number in zip(names, listing.numbers, strict=True)}
    return {
        name: [listing.names[place] for place in np.flatnonzero(row)]
        for name, row in zip(names, listing.numbers, strict=True)
    }


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


A_B = {"a.png": "7", "b.png": "ant, red"}
CSV_FILES = {
    "plain": 'image,label\na.png,7\nb.png,"ant, red"\n',
    "BOM, Windows line ends, spaces and blank lines": '\ufeffimage, label\r\na.png , 7\r\n\r\nb.png,"ant, red"\r\n',
    "other names in another order": "id;Class Name;width;FileName\n1;7;6;a.png\n2;ant, red;6;b.png\n",
    "tabs, no suffixes": "Image Path\ttag\na\t7\nb\tant, red\n",
    "a class column of another name": 'file,kind\na.png,7\nb.png,"ant, red"\n',
    "an index without a name": ',path,target\n0,a.png,7\n1,b.png,"ant, red"\n',
    "a repeated line": 'image,label\na.png,7\na.png,7\nb.png,"ant, red"\n',
    "backslashes": 'image,label\n.\\a.png,7\nb.png,"ant, red"\n',
}


@pytest.mark.parametrize("text", CSV_FILES.values(), ids=CSV_FILES)
def test_a_csv_file_lists_images_with_their_classes(tmp_path: Path, text: str):
    images(tmp_path, "a.png", "b.png")
    write(tmp_path / "labels.csv", text)
    for data in (tmp_path, tmp_path / "labels.csv"):
        listing = read_split(data, "train")
        assert labels(listing) == A_B
        assert listing.notes == (("1 repeated lines",) if text.count("a.png") > 1 else ())
    with pytest.raises(UserError, match=r"labels\.csv: has no split val, because no column .* --val-fraction"):
        read_split(tmp_path, "val")


def test_paths_of_another_machine_mean_the_one_file_of_their_name(tmp_path: Path):
    images(tmp_path, "images/a.png", "images/x/c.png", "images/y/c.png")
    for path in ("/home/somebody/pets/images/a.png", "C:\\Users\\somebody\\a.png", "pets/images/a.jpg"):
        write(tmp_path / "labels.csv", f"image,label\n{path},7\n")
        listing = read_split(tmp_path, "train")
        assert labels(listing) == {"images/a.png": "7"}
        shown = path.replace("\\", "/")
        note = f"paths of another machine replaced by those of fitting files: 1 ({shown} -> images/a.png)"
        assert listing.notes == (note,)
    # Two files fit the first path; the second one begins with a folder of the data set, which has no such file.
    for path in ("/home/somebody/c.png", "images/gone/a.png"):
        write(tmp_path / "labels.csv", f"image,label\n{path},7\n")
        with pytest.raises(UserError, match=f"1 of 1 images are not in .*, such as {path}"):
            read_split(tmp_path, "train")
    other = images(tmp_path / "other", "a.png") / "a.png"
    write(tmp_path / "images" / "labels.csv", f"image,label\n{other},7\n")
    with pytest.raises(UserError, match=r"leads out of .* --allow-outside true"):
        read_split(tmp_path / "images" / "labels.csv", "train")


def test_class_folders_in_folders_of_an_archive_are_found_and_named(tmp_path: Path):
    images(tmp_path / "a" / "pets" / "data", "train/cat/1.png", "train/dog/2.png", "valid/cat/3.png")
    images(tmp_path / "b" / "pets", "cat/1.png", "dog/2.png")
    write(images(tmp_path / "c" / "pets", "1.png") / "labels.csv", "image,label\n1.png,cat\n")
    for folder, home in (("a", "a/pets/data/train"), ("b", "b/pets"), ("c", "c/pets/labels.csv")):
        listing = read_split(tmp_path / folder, "train")
        assert listing.names[0] == "cat" and listing.source == str(tmp_path / home)
    assert len(read_split(tmp_path / "a", "val").files) == 1
    images(tmp_path / "d", "x/pets/cat/1.png", "y/cat/1.png")
    with pytest.raises(UserError, match=r"has no folder train/ \(existing folders: x/, y/\)"):
        read_split(tmp_path / "d", "train")


def test_classes_that_differ_in_capitals_are_the_same_class(tmp_path: Path):
    images(tmp_path, "train/Cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/DOG/4.png")
    source = FolderSource(tmp_path, in_channels=3, splits=("train", "val"))
    assert source.classes == ("Cat", "dog")
    expected = source._folders["val"]
    assert dict(zip(expected.file_names(), expected.labels.tolist())) == {"cat/3.png": 0, "DOG/4.png": 1}
    assert "names of classes that differ in capitals: DOG -> dog, cat -> Cat" in source.remarks["val"]
    report = check_data.check(check_data.CheckOptions(data=str(tmp_path), decode=False))
    assert [(p.kind, Path(p.file).name) for p in report.problems] == [
        ("other capitals", "DOG"),
        ("other capitals", "cat"),
    ]
    images(tmp_path, "val/Dog/5.png")
    with pytest.raises(UserError, match="Dog: is the same class as DOG; merge the two folders"):
        FolderSource(tmp_path, in_channels=3, splits=("train", "val"))
    images(tmp_path / "b", *(f"{split}/{name}/{split}.png" for split in ("train", "val") for name in ("Cat", "cat")))
    assert FolderSource(tmp_path / "b", in_channels=3, splits=("train", "val")).remarks["val"] == ""
    two = ClassNames.of(("Cat", "cat"))
    assert [two.label(name) for name in ("Cat", "cat", "CAT")] == [0, 1, None]


@pytest.mark.parametrize("kind", ["folders", "flat", "csv", "pattern"])
def test_files_of_operating_systems_are_no_images_and_no_classes(tmp_path: Path, kind: str):
    folder = {"folders": "train/", "csv": "", "pattern": ""}.get(kind)
    names = ("7/a.png", "x/b.png") if folder is None else ("train/7/a.png", "train/x/b.png")
    names = names if kind in ("folders", "flat") else ("7_a.png", "x_b.png")
    images(tmp_path, *names)
    if kind == "csv":
        write(tmp_path / "labels.csv", "image,label\n7_a.png,7\nx_b.png,x\n")
    options = Reading(label_from="([^/]+)_") if kind == "pattern" else None
    before = read_split(tmp_path, "train", options)
    litter(tmp_path)
    after = read_split(tmp_path, "train", options)
    assert labels(after) == labels(before) and set(labels(after).values()) == {"7", "x"}
    assert after.passed_over == before.passed_over and after.notes == before.notes


def test_shards_are_made_of_csv_files_but_not_of_several_classes_an_image(tmp_path: Path):
    root = images(tmp_path / "set", "a.png", "b.png", "c.png")
    write(root / "labels.csv", "image,label,split\na.png,7,train\nb.png,8,train\nc.png,8,val\n")
    made = make_shards(root, tmp_path / "shards")
    assert {split: sum(each.values()) for split, each in made.counts.items()} == {"train": 2, "val": 1}
    assert json.loads((tmp_path / "shards" / "shards.json").read_text())["classes"] == ["7", "8"]
    write(root / "labels.csv", "image,label,split\na.png,7;8,train\nb.png,8,train\nc.png,8,val\n")
    with pytest.raises(UserError, match="images have several classes, which shards cannot hold"):
        make_shards(root, tmp_path / "others")


def test_columns_are_chosen_by_name(tmp_path: Path):
    images(tmp_path, "a.png", "b.png")
    write(tmp_path / "x.csv", "image,label,use,photo,kind\n1,2,train,a.png,ant\n3,4,val,b.png,bee\n")
    chosen = Reading(image_column="photo", label_column="kind", split_column="use")
    assert labels(read_split(tmp_path, "train", chosen)) == {"a.png": "ant"}
    assert labels(read_split(tmp_path, "val", chosen)) == {"b.png": "bee"}
    with pytest.raises(UserError, match=r"--label-column art: .*x\.csv has no such column \(it has image, label, use"):
        read_split(tmp_path, "train", Reading(label_column="art"))


def test_splits_of_csv_files_come_from_columns_files_or_folders(tmp_path: Path):
    column = images(tmp_path / "column", "a.png", "b.png")
    write(column / "all.csv", "image,label,Split\na.png,ant,TRAIN\nb.png,bee,valid\n")
    files = images(tmp_path / "files", "images/a.png", "images/b.png")
    for name, row in (("train", "a,ant"), ("val", "b,bee")):
        write(files / f"{name}.csv", f"id,label\n{row}\n")
    folders = images(tmp_path / "folders", "train/a.png", "valid/b.png", "valid/c.png")  # as Roboflow writes them
    write(folders / "train/_classes.csv", "filename, ant, bee\na.png, 1, 0\n")
    write(folders / "valid/_classes.csv", "filename, ant, bee\nb.png, 0, 1\nc.png, 0, 0\n")
    nested = images(tmp_path / "nested", "train/x/1.png", "valid/x/1.png")
    write(nested / "all.csv", "image,label,subset\nx/1.png,ant,train\nx/1.png,bee,valid\n")
    for root, prefix in ((column, ""), (files, "images/")):
        assert labels(read_split(root, "train")) == {f"{prefix}a.png": "ant"}
        assert labels(read_split(root, "val")) == {f"{prefix}b.png": "bee"}
    assert labels(read_split(files / "train.csv", "val")) == {"images/b.png": "bee"}
    assert labels(read_split(folders, "train")) == {"train/a.png": "ant"}
    assert labels(read_split(folders, "val")) == {"valid/b.png": ["bee"], "valid/c.png": []}
    assert labels(read_split(nested / "all.csv", "train")) == {"train/x/1.png": "ant"}
    assert labels(read_split(nested / "all.csv", "val")) == {"valid/x/1.png": "bee"}
    with pytest.raises(UserError, match=r"the column Split has no split test \(it has train, valid\); name one"):
        read_split(column, "test")
    (files / "val.csv").unlink()
    write(files / "sample_submission.csv", "id,label\na,ant\n")  # as Kaggle's competitions have it
    for data in (files / "train.csv", files):
        with pytest.raises(NoSplitError, match=r"train\.csv: there is no val\.csv beside it"):
            read_split(data, "val")
    assert labels(read_split(files, "train")) == {"images/a.png": "ant"}


def test_names_in_a_csv_file_may_differ_from_the_files_in_capitals(tmp_path: Path):
    images(tmp_path, "one/A.PNG", "one/b.png", "two/B.PNG")
    path = write(tmp_path / "labels.csv", "image,label\na.png,7\nb.png,8\nTwo/b,9\n")
    listing = read_split(path, "train")
    assert labels(listing) == {"one/A.PNG": "7", "one/b.png": "8", "two/B.PNG": "9"}
    assert listing.notes == ("names that differ from their files in capitals only: 2",)


def test_split_folders_may_have_capitals(tmp_path: Path):
    root = images(tmp_path, "Train/ant/a.png", "VALID/ant/b.png", "Test/ant/c.png")
    assert labels(read_split(root, "train")) == {"ant/a.png": "ant"}
    assert labels(read_split(root, "val")) == {"ant/b.png": "ant"}
    assert labels(read_split(root, "test")) == {"ant/c.png": "ant"}
    images(root, "valid/bee/d.png")
    assert labels(read_split(root, "val")) == {"bee/d.png": "bee"}  # the usual spelling comes first


def test_several_classes_make_a_data_set_multi_label(tmp_path: Path):
    images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    write(tmp_path / "x.csv", "image,label\na.png,sun; sea;\nb.png,sea\nc.png,\nd.png,sun|sea\n")
    found = read_split(tmp_path, "train")
    assert labels(found) == {"a.png": ["sea", "sun"], "b.png": ["sea"], "c.png": [], "d.png": ["sun|sea"]}
    assert found.counts() == {"sea": 2, "sun": 1, "sun|sea": 1}
    bars = read_split(tmp_path, "train", Reading(label_separator="|", multi_label=True))
    assert labels(bars)["d.png"] == ["sea", "sun"]
    single = Reading(multi_label=False)
    with pytest.raises(UserError, match=r"x\.csv: line 4 has no class; fix the line, or pass --multi-label true"):
        read_split(tmp_path, "train", single)
    write(tmp_path / "x.csv", "image,label\na.png,sun\na.png,sea\n")
    with pytest.raises(UserError, match=r"lines 2 and 3 give a\.png the classes sun and sea; fix one, or pass --multi"):
        read_split(tmp_path, "train")
    assert labels(read_split(tmp_path, "train", Reading(multi_label=True))) == {"a.png": ["sea", "sun"]}


def test_one_multi_label_split_makes_both_so(tmp_path: Path):
    images(tmp_path, "a.png", "b.png")
    write(tmp_path / "train.csv", "image,label\na.png,sun;sea\n")
    write(tmp_path / "val.csv", "image,label\nb.png,sea\n")
    source = FolderSource(tmp_path, in_channels=None, splits=("train", "val"))
    assert source.multi_label and source.classes == ("sea", "sun") and source.present("val").tolist() == [0]
    assert source.where == {split: str(tmp_path / f"{split}.csv") for split in ("train", "val")}


HOSTILE = {
    "empty": ("", r"x\.csv: lists no images; write a line of column names"),
    "names of columns only": ("image,label\n", r"x\.csv: lists no images"),
    "no column of images": ("photo,kind\na.png,7\n", r"no column names the images \(the first line has photo, kind\)"),
    "no column of classes": ("image\na.png\n", r"no column names the classes .* --label-column"),
    "no names of columns": ("a.png,7\nb.png,8\n", r"no column names the images .* image,label"),
    "a short line": ("image,label\na.png\n", r"line 2 has 1 cell, but the first line names 2 columns"),
    "an unquoted comma": ("image,label\na.png,ant, red\n", r"line 2 has 3 cells"),
    "no class": ("image,label\na.png,\n", r"line 2 has no class; fix the line"),
    "a path that leads out": ("image,label\n../a.png,7\n", r"line 2: '\.\./a\.png' leads out .* --allow-outside true"),
    "an absolute path": ("image,label\n/,7\n", r"line 2: '/' leads out"),
    "no name": ("image,label\n,7\n", r"line 2: '' is no file name"),
    "a NUL": ("image,label\na\0.png,7\n", r"x\.csv: "),
    "missing images": (
        "image,label\na.png,7\ngone.png,7\naway.png,7\n",
        r"2 of 3 images are not in .*, such as gone\.png \(line 3\); add the images, or pass --on-bad-image skip",
    ),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE)
def test_broken_csv_files_are_refused_in_one_line(tmp_path: Path, text: str, message: str):
    images(tmp_path, "a.png")
    write(tmp_path / "x.csv", text)
    with pytest.raises(UserError, match=message) as error:
        read_split(tmp_path, "train")
    assert "\n" not in str(error.value)


def test_other_encodings_several_files_and_ambiguous_names_are_refused(tmp_path: Path):
    images(tmp_path, "p/a.png", "q/a.png")
    path = write(tmp_path / "x.csv", "image,label\nä.png,7\n", "latin-1")
    with pytest.raises(UserError, match=r"x\.csv: cannot be read .*; save it as a CSV file in UTF-8"):
        read_split(path, "train")
    write(path, "image,label\na.png,7\n")
    with pytest.raises(UserError, match=r"line 2: a\.png may be p/a\.png or q/a\.png; write the path from"):
        read_split(tmp_path / "x.csv", "train")
    write(tmp_path / "y.csv", "image,label\n")
    (tmp_path / "p").rename(tmp_path / "images")
    (tmp_path / "q").rename(tmp_path / "img")
    with pytest.raises(UserError, match=r"has several CSV files \(x\.csv, y\.csv\); name one, such as --data .*x\.csv"):
        read_split(tmp_path, "train")


def test_paths_outside_and_missing_images_are_read_if_asked_for(tmp_path: Path):
    outside = images(tmp_path / "outside", "o.png") / "o.png"
    root = images(tmp_path / "data", "a.png")
    write(root / "x.csv", f"image,label\n{root / 'a.png'},7\n{outside},8\ngone.png,8\n")
    found = read_split(root, "train", Reading(allow_outside=True, keep_absent=True))
    assert labels(found) == {"a.png": "7", str(outside): "8", "gone.png": "8"}
    assert found.notes == ("WARNING: missing images: 1",) and found.absent() == ["gone.png"]


def test_class_folders_come_before_a_csv_file_beside_them(tmp_path: Path):
    images(tmp_path, "train/ant/a.png", "train/bee/b.png", "val/ant/c.png")
    write(tmp_path / "my notes.csv", "image,label\ntrain/ant/a.png,red\n")
    found = read_split(tmp_path, "train")
    assert labels(found) == {"ant/a.png": "ant", "bee/b.png": "bee"}
    assert found.notes == (f"my notes.csv is not read; to read it, pass --data '{tmp_path}/my notes.csv'",)
    assert labels(read_split(tmp_path / "my notes.csv", "train")) == {"train/ant/a.png": "red"}


def test_class_folders_without_splits_are_one_split(tmp_path: Path):
    images(tmp_path, "ant/a.png", "bee/b.png", "bee/deep/c.png")
    for name in ("train", "all"):
        assert labels(read_split(tmp_path, name)) == {"ant/a.png": "ant", "bee/b.png": "bee", "bee/deep/c.png": "bee"}
    with pytest.raises(UserError, match=r"has no split val, because its folders \(ant, bee\) are classes; divide"):
        read_split(tmp_path, "val")


def test_classes_come_from_names_of_files(tmp_path: Path):
    images(tmp_path, "cat_1.png", "cat_2.png", "deep/dog_1.png")
    pattern = Reading(label_from=r"([a-z]+)_\d")
    assert labels(read_split(tmp_path, "train", pattern)) == {
        "cat_1.png": "cat", "cat_2.png": "cat", "deep/dog_1.png": "dog",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"has no folder val/; divide the images with --val-fraction"):
        read_split(tmp_path, "val", pattern)
    images(tmp_path, "val/cow_1.png", "train/cow_2.png")
    assert labels(read_split(tmp_path, "val", pattern)) == {"cow_1.png": "cow"}
    three = images(tmp_path / "three", "cat_1.png", "cat_2.png", "dog_1.png")
    for wrong, message in (
        ("(dog)", r"--label-from \(dog\): gives no class to 2 of 3 images of .*, such as cat_1\.png"),
        ("[a-z", "is no regular expression"),
        ("cat", "has no group"),
    ):
        with pytest.raises(UserError, match=message):
            read_split(three, "train", Reading(label_from=wrong))
    with pytest.raises(UserError, match="is no regular expression"):
        has_split(three, "val", Reading(label_from="["))


def test_data_sets_of_other_tasks_are_not_taken_for_class_folders(tmp_path: Path):
    roboflow = images(tmp_path / "roboflow", "train/a.png", "valid/b.png")
    write(roboflow / "train/_annotations.coco.json", json.dumps({"images": []}))
    yolo = images(tmp_path / "yolo", "train/images/a.png", "valid/images/b.png")
    write(yolo / "train/labels/a.txt", "0 .5 .5 1 1\n")
    maps = images(tmp_path / "maps", "images/train/a.png", "masks/train/a.png")
    voc = images(tmp_path / "voc", "train/a.png")
    write(voc / "train/a.xml", "<annotation/>")
    coco = images(tmp_path / "coco", "train2017/a.png")
    write(coco / "annotations/instances_train2017.json", "{}")
    for root, what in (
        (roboflow, r"holds boxes in the format of COCO \(_annotations\.coco\.json\), not class .* tools/train_det\.py"),
        (yolo, r"holds boxes in YOLO's layout \(images, labels\), .* tools/train_det\.py"),
        (maps, r"holds images and label maps \(images, masks\), .* tools/train_seg\.py"),
        (voc, r"holds images with boxes in XML files beside them, .* tools/train_det\.py"),
        (coco, r"holds boxes in COCO's layout .* tools/train_det\.py"),
    ):
        with pytest.raises(UserError, match=f"--data {re.escape(str(root))}: {what}"):
            read_split(root, "train")


def test_a_plugin_registers_a_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(REGISTERED, "_builders", dict(REGISTERED._builders))
    images(tmp_path, "pictures/a.png", "pictures/b.png")
    write(tmp_path / "list.txt", "")
    given: dict[str, object] = {"a.png": "ant", "b.png": "bee"}

    @classification.register_layout("list", matches=lambda root: (root / "list.txt").is_file())
    def read_list(root: Path, split: str) -> tuple[Path, dict[str, object]]:
        return root / "pictures", given

    found = read_split(tmp_path, "val")
    assert (found.root, labels(found)) == (tmp_path / "pictures", {"a.png": "ant", "b.png": "bee"})
    given["b.png"] = ["ant", "bee"]
    assert labels(read_split(tmp_path, "val")) == {"a.png": ["ant"], "b.png": ["ant", "bee"]}
    given["../c.png"] = "cow"
    with pytest.raises(UserError, match=r"layout list\): '\.\./c\.png': 'cow' is not a file of"):
        read_split(tmp_path, "val")
    with pytest.raises(ValueError, match="built in"):
        classification.register_layout("csv", matches=lambda root: True)
