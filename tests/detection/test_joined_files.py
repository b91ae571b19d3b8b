"""Several annotation files of one split: those of several annotators, projects or jobs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tool_exports import EXPORTS

from backbones.common.label_studio import UNLABELLED
from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.folders import open_split, splits_of
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.joined import EMPTY, NO_IMAGE, SAME
from tools import check_data

SECOND = {
    "via-annotators": "via_export_json_b.json",
    "label-studio-projects": "project-2-at-2024-01-01-00-00-abcdef01.json",
}
SECOND |= {"cvat-jobs": "job_2.xml"}


@pytest.fixture(params=SECOND)
def export(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder with several files, and the file with the objects of `b.png`."""
    EXPORTS[request.param][1](tmp_path / "set")
    return tmp_path / "set", tmp_path / "set" / SECOND[request.param]


def change(path: Path, replace: Callable[[str], str]) -> None:
    """Write a changed copy of a file beside it."""
    copy = path.with_name(f"copy_of_{path.name}")
    copy.write_text(replace(path.read_text()))


def test_an_image_that_several_files_hold_alike_is_read_once(export: tuple[Path, Path]):
    root, second = export
    before = open_split(root, "train").notes
    change(second, lambda text: text)
    truth = open_split(root, "train")
    data = CocoAnnotations.of(truth)
    assert len(data) == 2 and len(data.boxes) == 3 and splits_of(root) == ["train"]
    assert truth.notes - before == Counter({SAME: 1, **({EMPTY: 1} if "via" in second.name else {})})
    assert truth.path == root and sorted(truth.locate(index)[1].split()[1] for index in range(3)) == ["1", "1", "2"]
    assert not {".json", ".csv", ".xml"} & {*truth.passed_over}


def test_an_image_with_different_objects_in_two_files_is_refused(export: tuple[Path, Path]):
    root, second = export
    change(second, lambda text: text.replace("dog", "cat"))
    with pytest.raises(UserError, match=r"(copy_of_)?\w.*: the image b.png has other objects in .*; keep one of the"):
        open_split(root, "train")
    problems = check_data.check(check_data.CheckOptions(data=str(root))).problems
    assert any("other objects in" in problem.text for problem in problems)


def test_a_file_whose_tasks_nobody_annotated_is_left_out_and_counted(tmp_path: Path):
    EXPORTS["label-studio-projects"][1](tmp_path)
    tasks = json.dumps([{"id": 9, "data": {"image": "a.jpg"}, "annotations": []}])
    (tmp_path / "project-3.json").write_text(tasks)
    truth = open_split(tmp_path, "train")
    assert len(truth.data["images"]) == 2 and truth.notes[NO_IMAGE] == truth.notes[UNLABELLED] == 1
    for path in tmp_path.glob("*.json"):
        path.write_text(tasks)
    with pytest.raises(UserError, match=r"no image that can be read \(tasks without an annotation, .*: 1\); check the"):
        open_split(tmp_path, "train")


def test_files_in_the_folder_of_a_split_are_one_split(tmp_path: Path):
    for split in ("train", "val"):
        EXPORTS["label-studio-projects"][1](tmp_path / split)
    assert splits_of(tmp_path) == ["train", "val"]
    assert len(CocoAnnotations.of(open_split(tmp_path, "val")).boxes) == 3


def test_files_of_which_only_some_name_a_split_are_refused(export: tuple[Path, Path]):
    root, second = export
    second.rename(second.with_name(f"train{second.suffix}"))
    with pytest.raises(
        UserError, match=r"has several annotation files .*; name one with --annotations and --images, or"
    ):
        splits_of(root)


def test_several_files_of_one_split_are_refused_where_a_tool_writes_one(tmp_path: Path):
    EXPORTS["roboflow-tensorflow"][1](tmp_path)
    path = tmp_path / "train" / "_annotations.csv"
    path.with_name("more.csv").write_text(path.read_text())
    with pytest.raises(UserError, match=r"train has several annotation files \(_annotations.csv, more.csv\); name one"):
        splits_of(tmp_path)


@pytest.mark.parametrize(("layout", "count"), [("cvat", 2), ("label-studio", 2)])
def test_the_classes_of_each_of_many_files_are_read_once(
    layout: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    EXPORTS["cvat-jobs" if layout == "cvat" else "label-studio-projects"][1](tmp_path)
    known = LAYOUTS[layout]()
    asked: list[Path] = []
    read = type(known).classes_in
    monkeypatch.setattr(type(known), "classes_in", lambda self, path: asked.append(path) or read(self, path))
    known.read(tmp_path, "train", Reading())
    assert len(asked) == len({*asked}) == count


def test_subsets_of_a_project_in_several_files_are_splits(tmp_path: Path):
    """Each file has images of both subsets, or of one."""
    EXPORTS["cvat-project"][1](tmp_path)
    path = tmp_path / "annotations.xml"
    head, *images = path.read_text().removesuffix("</annotations>\n").split("  <image ")
    path.unlink()
    for number, part in enumerate((images[:3], images[3:]), 1):
        text = head + "".join(f"  <image {image}" for image in part)
        (tmp_path / f"job_{number}.xml").write_text(f"{text}</annotations>\n")
    assert splits_of(tmp_path) == ["train", "validation"]
    for split, folder in (("train", "Train"), ("val", "Validation")):
        truth = open_split(tmp_path, split)
        assert [image["file_name"] for image in truth.data["images"]] == [f"{folder}/a.jpg", f"{folder}/b.png"]
        assert [category["name"] for category in truth.data["categories"]] == ["cat", "dog"]
