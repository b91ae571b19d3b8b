"""Label Studio's brush as PNG and NumPy files, read as label maps and as objects with masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from label_exports import HALF, label_studio, label_studio_png, photo, save

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.folders import known_layout, open_split
from segmentation.data.folders import open_source
from segmentation.data.painted import PaintedLabels
from segmentation.options import SegmentationDataOptions
from tools import check_data


def opened(root: Path) -> PaintedLabels:
    source = open_source(root, "train", SegmentationDataOptions())
    assert isinstance(source, PaintedLabels)
    return source


def stroke(root: Path, name: str, mask: np.ndarray = HALF) -> None:
    """Write a mask as the converter does: NumPy's suffix stands after names that may contain points."""
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / f"{name}.npy", 255 * mask)


def test_tasks_without_a_json_file_have_the_images_of_their_number(tmp_path: Path):
    """Later strokes cover earlier ones; masks of further annotations and images without a mask are counted."""
    for name in ("5.jpg", "task-06.jpg", "7.jpg"):
        photo(tmp_path / "images" / name)
    stroke(tmp_path / "masks", "task-5-annotation-1-by-a@x.org-tag-left-hand-0", np.ones((4, 6), np.uint8))
    stroke(tmp_path / "masks", "task-5-annotation-1-by-a@x.org-tag-right-0")
    stroke(tmp_path / "masks", "task-5-annotation-2-by-b@x.org-tag-other-0")
    stroke(tmp_path / "masks", "task-6-annotation-9-by-a@x.org-tag-right-0")
    source = opened(tmp_path)
    assert source.classes.names == ("background", "left-hand", "right")
    assert [source.file(row).name for row in range(len(source))] == ["5.jpg", "task-06.jpg"]
    assert np.array_equal(source.labels(0, (4, 6)), 1 + HALF) and np.array_equal(source.labels(1, (4, 6)), 2 * HALF)
    left_out = {"masks of further annotations of the same task, which are left out": 1}
    left_out |= {"images without a mask, which are left out": 1}
    assert source.notes == left_out
    # Each stroke is an object with a mask.
    assert known_layout(tmp_path).name == "label-studio-png"
    data = CocoAnnotations.of(open_split(tmp_path, "train"), without_mask="error")
    assert data.boxes.tolist() == [[0, 0, 6, 4], [3, 0, 6, 4], [3, 0, 6, 4]] and data.labels.tolist() == [1, 2, 2]
    assert data.notes == left_out and not +data.passed_over
    # A list of classes tells where the name of the brush's tag ends.
    (tmp_path / "classes.txt").write_text("hand\nright\n")
    assert opened(tmp_path).classes.names == ("background", "hand", "right")


def test_brush_strokes_in_a_json_file_are_objects_with_masks(tmp_path: Path):
    """The JSON file is read in place of the PNG files beside it, which hold the same strokes."""
    label_studio(tmp_path)
    stroke(tmp_path, "task-1-annotation-9-by-1-tag-foreground-0")
    assert known_layout(tmp_path).name == "label-studio"
    data = CocoAnnotations.of(open_split(tmp_path, "train"), without_mask="box")
    assert data.boxes.tolist() == [[3, 0, 6, 4]] * 2
    assert data.strips_of(0) is not None and len(opened(tmp_path)) == 2


def test_masks_that_cannot_be_used_are_named(tmp_path: Path):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "b.jpg")
    name = "task-3-annotation-1-by-1-tag-cat-0"
    stroke(tmp_path, name)
    with pytest.raises(UserError, match=r"no image is known to be that of task 3; .*JSON beside the masks, or name th"):
        opened(tmp_path)
    (tmp_path / "tasks.json").write_text(json.dumps([{"id": 3, "data": {"image": "gone.jpg"}}]))
    with pytest.raises(UserError, match=r"task 3 \(gone\.jpg\)"):
        open_split(tmp_path, "train")
    (tmp_path / "tasks.json").write_text(json.dumps([{"id": n, "data": {"image": "a.jpg"}} for n in (3, 4)]))
    stroke(tmp_path, "task-4-annotation-1-by-1-tag-cat-0")
    with pytest.raises(UserError, match="two tasks have the same image"):
        opened(tmp_path)
    (tmp_path / "task-4-annotation-1-by-1-tag-cat-0.npy").unlink()
    stroke(tmp_path, name, HALF[:2])
    with pytest.raises(UserError, match=r"mask 1: task-3.*npy has 6x2 pixels, but a\.jpg has 6x4; export it again"):
        open_split(tmp_path, "train")
    with pytest.raises(UserError, match=r"task-3-.*: an outline of cat is malformed \(run lengths add up to 12"):
        opened(tmp_path).labels(0, (4, 6))
    for content, message in ((np.zeros((4, 6, 3), np.uint8), "is no mask of one"), (np.array([None]), "not decode")):
        np.save(tmp_path / f"{name}.npy", content, allow_pickle=True)
        with pytest.raises(UserError, match=message):
            opened(tmp_path)
    (tmp_path / f"{name}.npy").unlink()
    save(tmp_path / f"{name}.png", np.repeat(HALF[..., None], 4, axis=2))  # RGBA: the mask is alpha
    assert np.array_equal(opened(tmp_path).labels(0, (4, 6)), HALF)


def test_the_label_maps_of_painted_outlines_are_checked(tmp_path: Path):
    label_studio_png(tmp_path)
    report = check_data.check(check_data.CheckOptions(data=str(tmp_path), truth="labels"))
    assert [(problem.kind, problem.split) for problem in report.problems] == [("no such split", "val")]
    assert report.per_class == {"train": {"background": 0.5, "foreground": 0.5}}
    assert report.checked == {"train": {"images": 2}}
    photo_of_other_size = np.zeros((8, 6, 3), np.uint8)
    save(tmp_path / "images" / "c.jpg", photo_of_other_size)
    save(tmp_path / "task-7-annotation-7-by-me@x.org-tag-dog-1.png", 0 * HALF)
    report = check_data.check(check_data.CheckOptions(data=str(tmp_path), truth="labels"))
    kinds = {problem.kind: problem.text for problem in report.problems}
    assert (
        kinds.keys() == {"no such split", "unusable label map", "class without training pixels"} and report.wrong == 2
    )
    assert "run lengths add up to 24, not 8 x 6" in kinds["unusable label map"]
    (tmp_path / "tasks.json").write_text("[]")
    report = check_data.check(check_data.CheckOptions(data=str(tmp_path), truth="labels"))
    assert "no image is known to be that of task 7" in report.problems[0].text and report.wrong == 1
