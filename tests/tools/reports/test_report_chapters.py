"""Reports of classification and segmentation runs, and the intervals of differences."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from report_page import Page
from run_folders import class_folders, classification_run
from tolerances import written

from backbones.errors import UserError
from segmentation.label_maps import read_maps
from tools import report
from tools.reports.cells import tables_by_presence, text_cell, text_column
from tools.reports.differences import classification_differences, segmentation_differences
from tools.reports.page import FoldedBlocks, SortableTable
from tools.runs.classification import ClassPredictions
from tools.runs.folder import RunFolder
from tools.runs.segmentation import MaskPredictions

QUICK = ("--recipe", "shapes", "--backbone", "resnet20", "--workers", 0, "--epochs", 1, "--batch-size", 4)


def run(*words: object) -> None:
    report.main([*map(str, words)])


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps whose left half is `dark` and right half `bright`, a line between that does not count."""
    root = tmp_path_factory.mktemp("data") / "halves"
    for split, count in (("train", 4), ("val", 3)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            labels = np.zeros((32, 40), np.uint8)
            labels[:, 20:], labels[:, 20] = 1, 7
            pixels = np.repeat(np.where(labels == 1, 190, 60 + 9 * number)[..., None], 3, 2).astype(np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), pixels)
            cv2.imwrite(str(root / "labels" / split / f"{number}.png"), labels)
    (root / "classes.txt").write_text("dark\nbright\n")
    return root


@pytest.fixture(scope="module")
def segmented(script, halves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run on them."""
    folder = tmp_path_factory.mktemp("runs") / "seg"
    words = ("--data", halves, *QUICK, "--crop-size", 32, "--ignore-index", 7, "--output", folder)
    done = script("train_seg.py", *words, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return folder


def guessing(segmented: Path, folder: Path, cuts: tuple[int, int, int]) -> Path:
    """A copy of the run whose predictions are dark up to a column, and bright from there."""
    shutil.copytree(segmented, folder)
    total = np.zeros((2, 2), np.int64)
    with zipfile.ZipFile(folder / "predictions.zip", "w") as file:
        for row, cut in enumerate(cuts):
            labels = np.zeros((32, 40), np.uint8)
            labels[:, cut:] = 1
            file.writestr(f"{row:06d}-{row}.png", cv2.imencode(".png", labels)[1].tobytes())
            for column in range(40):
                if column != 20:  # the void line
                    total[int(column > 20), int(column >= cut)] += 32
    results = json.loads((folder / "results.json").read_text())
    right, union = np.diag(total), total.sum(0) + total.sum(1) - np.diag(total)
    per_class = {name: {"IoU": value} for name, value in zip(("dark", "bright"), (right / union).tolist())}
    figures = {"mIoU": float((right / union).mean()), "per_class": per_class}
    (folder / "confusion.json").write_text(json.dumps({"classes": ["dark", "bright"], "matrix": total.tolist()}))
    (folder / "results.json").write_text(json.dumps({**results, **figures}))
    return folder


def test_a_real_segmentation_run(segmented: Path, halves: Path):
    maps = read_maps(segmented / "predictions.zip")
    assert [key for key in maps] == [(0, "0"), (1, "1"), (2, "2")]
    assert {labels.shape for labels in maps.values()} == {(32, 40)}
    run(segmented)
    shown = Page(segmented / "report.html")
    results = json.loads((segmented / "results.json").read_text())
    assert shown.table("Metrics in percent")[0][:2] == ["mIoU", f"{100 * results['mIoU']:.1f}"]
    rows = shown.table("Classes in percent")
    assert [row[0] for row in rows] == ["dark", "bright"]
    assert rows[0][1] == "51.28"  # 20 of 39 columns that count
    assert "Worst images" in shown.text and shown.count("img") == 3 * 3  # image, truth, prediction


def test_segmentation_scores_and_differences(segmented: Path, halves: Path, tmp_path: Path):
    first = guessing(segmented, tmp_path / "a", (20, 20, 10))
    other = guessing(segmented, tmp_path / "b", (20, 20, 20))
    a, b = (MaskPredictions.read(RunFolder.read(folder), data=None) for folder in (first, other))
    # Cut at 10: dark 10 / 20; bright 19 / 29.
    assert a.image_ious.tolist() == pytest.approx([1, 1, (10 / 20 + 19 / 29) / 2])
    assert b.image_ious.tolist() == [1, 1, 1]
    rows = {row.name: row for row in segmentation_differences(a, b, resamples=200)}
    assert rows["mIoU"].first == pytest.approx((50 / 60 + 57 / 67) / 2) and rows["mIoU"].other == 1
    assert rows["mIoU"].low == 0  # many resamples leave the one image out that differs
    assert rows["mIoU"].high == pytest.approx(1 - (10 / 20 + 19 / 29) / 2)  # and some hold nothing else
    run(first, other, "--bootstrap", 20)
    shown = Page(tmp_path / "report.html")
    assert "b better than a" in shown.text and "b worse than a" not in shown.text
    assert shown.table("b against a")[0][3] == "+15.8"  # 1 - (50 / 60 + 57 / 67) / 2


@pytest.mark.filterwarnings("error")
def test_a_class_that_occurs_nowhere_has_no_difference(tmp_path: Path):
    run_folder = RunFolder(tmp_path, "a", "segmentation", {}, {"per_class": {"sky": {}, "car": {}}}, [])
    pixels = np.array([[9, 0], [4, 0]])
    maps = MaskPredictions(run_folder, (0, 1), ("a", "b"), pixels, pixels, pixels, {}, None)
    rows = segmentation_differences(maps, maps, resamples=10)
    assert [(row.name, row.first, row.low) for row in rows] == [
        ("mIoU", 1, 0), ("pixel_accuracy", 1, 0), ("IoU of sky", 1, 0), ("IoU of car", None, None),
    ]  # fmt: skip


def test_what_an_older_segmentation_run_lacks_is_said(segmented: Path, tmp_path: Path, capsys):
    folder = shutil.copytree(segmented, tmp_path / "old")
    (folder / "predictions.zip").unlink()
    run(folder)
    shown = Page(folder / "report.html")
    assert (
        "the file of predicted label maps" in shown.text
        and "the file of predicted label maps" in capsys.readouterr().err
    )
    assert shown.table("Classes in percent") and "Worst images" not in shown.text


def test_label_maps_of_other_data_are_not_shown(segmented: Path, halves: Path, tmp_path: Path):
    moved = shutil.copytree(halves, tmp_path / "halves")
    labels = np.ones((32, 40), np.uint8)
    cv2.imwrite(str(moved / "labels" / "val" / "0.png"), labels)
    folder = shutil.copytree(segmented, tmp_path / "run")
    run(folder, "--data", moved)
    assert "do not give the run's confusion matrix" in Page(folder / "report.html").text
    for content in (b"", b"PK\x05\x06" + bytes(18)):  # torn, and without an entry
        (folder / "predictions.zip").write_bytes(content)
        run(folder)
        assert "Missing data" in Page(folder / "report.html").text


def test_a_real_classification_run(script, tmp_path: Path):
    root = class_folders(tmp_path / "data", ("ant", "bee", "cat"), 2)
    shutil.copytree(root / "val", root / "train")
    folder = tmp_path / "cls"
    words = ("--data", root, *QUICK, "--crop-size", 32, "--resize-size", 32, "--augment", "none", "--output", folder)
    done = script("train_cls.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all((row["rank"] == "0") == (row["class"] == row["predicted"]) for row in rows)
    results = json.loads((folder / "results.json").read_text())
    assert np.mean([float(row["loss"]) for row in rows]) == pytest.approx(results["nll"], abs=written(4))
    run(folder)
    shown = Page(folder / "report.html")
    assert [row[0] for row in shown.table("Classes in percent")] == ["ant", "bee", "cat"]
    assert shown.count("img") >= 6 and "Calibration in percent" in shown.text and "Learning rate" in shown.text


ROWS = [
    ("ant/0.png", "ant", "ant", 0.9, 0, 0.1),
    ("ant/1.png", "ant", "bee", 0.8, 1, 1.9),
    ("bee/0.png", "bee", "bee", 0.7, 0, 0.4),
    ("bee/1.png", "bee", "ant", 0.6, 1, 0.9),
]


def test_classification_tables(tmp_path: Path):
    root = class_folders(tmp_path / "data", ("ant", "bee"), 2)
    first = classification_run(tmp_path / "a", root, ROWS)
    mended = [ROWS[0], ("ant/1.png", "ant", "ant", 0.5, 0, 0.7), *ROWS[2:]]
    other = classification_run(tmp_path / "b", root, mended)
    run(first, other, "--bootstrap", 100)
    shown = Page(tmp_path / "report.html")
    assert shown.table("Classes in percent") == [
        ["ant", "2", "50.0", "50.0", "100.0", "66.7"],  # recall and precision of each run: b takes 3 for ants, 2 are
        ["bee", "2", "50.0", "50.0", "50.0", "100.0"],
    ]
    rows = {row[0]: row[1:] for row in shown.table("b against a")}
    assert rows["top1"][:3] == ["50.0", "75.0", "+25.0"]
    assert rows["nll"][:3] == ["0.8250", "0.5250", "\N{MINUS SIGN}0.3000"]  # (1.9 - 0.7) / 4
    assert "Fixed by b: 1 image" in shown.text and "Broken by" not in shown.text
    assert shown.table("a: most frequent confusions") == [["ant", "bee", "1", "50.0"], ["bee", "ant", "1", "50.0"]]
    # Confidences .9, .8, .7, .6, each alone in its bin: right, wrong, right, wrong: gaps .1, .8, .3, .6
    assert shown.table("Calibration in percent")[0] == ["a", "45.0", "80.0", "75.0", "50.0"]


def test_predictions_of_older_runs_and_unread_images(tmp_path: Path):
    root = class_folders(tmp_path / "data", ("ant", "bee"), 2)
    folder = classification_run(tmp_path / "a", root, [*ROWS[:3], ("bee/1.png", "bee", "", 0.0, 2, "")])  # type: ignore[list-item]
    found = ClassPredictions.read(RunFolder.read(folder))
    assert found.predicted.tolist() == [0, 1, 1, -1] and np.isnan(found.loss[3])
    rows = classification_differences(found, found, resamples=20)
    assert [(row.name, row.low, row.high) for row in rows] == [("top1", 0, 0), ("nll", 0, 0)]
    lines = (folder / "predictions.csv").read_text().splitlines()
    (folder / "predictions.csv").write_text("\n".join(",".join(line.split(",")[:4]) for line in lines) + "\n")
    shutil.copytree(folder, tmp_path / "b")
    run(folder, tmp_path / "b", "--bootstrap", 20)
    shown = Page(tmp_path / "report.html")
    assert "a, b: predictions.csv has no rank and loss of each image" in shown.text
    assert [row[0] for row in shown.table("b against a")] == ["top1"]


@pytest.mark.parametrize("text", ["", "image\nx\n", "image,class,predicted,confidence\nx,cow,ant,1\n", "\x00"])
def test_predictions_that_are_none(tmp_path: Path, text: str):
    root = class_folders(tmp_path / "data", ("ant", "bee"), 2)
    folder = classification_run(tmp_path / "a", root, ROWS)
    (folder / "predictions.csv").write_text(text)
    with pytest.raises(UserError, match="predictions"):
        ClassPredictions.read(RunFolder.read(folder))
    run(folder)
    assert "Missing data" in Page(folder / "report.html").text


def test_names_of_images_do_not_lead_out(tmp_path: Path):
    """A predictions.csv of somebody else must not put our files into a page."""
    root = class_folders(tmp_path / "data", ("ant", "bee"), 2)
    secret = tmp_path / "secret.png"
    cv2.imwrite(str(secret), np.zeros((9, 9, 3), np.uint8))
    rows = [("../../secret.png", *ROWS[0][1:]), (str(secret), *ROWS[1][1:]), *ROWS[2:]]
    folder = classification_run(tmp_path / "a", root, rows)
    run(folder)
    shown = Page(folder / "report.html")
    pictures = [attrs for tag, attrs in shown.tags if tag == "img"]
    assert {attrs["width"] for attrs in pictures} == {"30"} and "no image" in shown.text


def test_the_shapes_are_found_without_a_name(segmented: Path, tmp_path: Path, monkeypatch):
    """A run on the built-in shapes has no `data`: the report asks for them where they are cached."""
    asked = []
    monkeypatch.setattr("tools.synthetic.shapes.prepare", lambda: asked.append(1) or tmp_path / "absent")
    folder = shutil.copytree(segmented, tmp_path / "run")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "data": None}))
    run(folder)
    assert asked and "absent: no such folder" in Page(folder / "report.html").text


def test_classes_without_objects_are_folded_away():
    rows = [[text_cell(name)] for name in ("cat", "dog", "bus")]
    table = SortableTable("Classes", [text_column("class")], rows, "note")
    shown, folded = tables_by_presence(table, [False, True, False], "objects")
    assert isinstance(shown, SortableTable) and isinstance(folded, FoldedBlocks)
    assert (shown.rows, shown.note) == ([rows[1]], "note")
    assert folded.title == "2 classes without objects"
    assert [block.rows for block in folded.blocks] == [[rows[0], rows[2]]]
    # Nothing is folded if all classes occur, or if none does.
    assert (
        tables_by_presence(table, [True] * 3, "objects") == tables_by_presence(table, [False] * 3, "objects") == [table]
    )
