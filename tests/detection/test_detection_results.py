"""Detections as a user handles them: filters, iteration, drawing, crops, and the forms of other libraries."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import PIL.Image
import pytest
import torch
from pycocotools import mask as coco_mask

from backbones.errors import UserError
from detection.results import Detections, Outlines

SIZE = (20, 30)  # height, width


def bitmaps() -> np.ndarray:
    masks = np.zeros((3, *SIZE), np.uint8)
    masks[0, 2:8, 1:5], masks[1, 10:19, 12:29], masks[2, 0:1, 0:1] = 1, 1, 1
    return masks


@pytest.fixture
def found() -> Detections:
    codes = [coco_mask.encode(np.asfortranarray(each)) for each in bitmaps()]
    boxes = torch.tensor([[1.0, 2.0, 5.0, 8.0], [12.25, 10.0, 28.5, 19.0], [-3.0, -4.0, 0.5, 0.25]])
    outlines = Outlines(tuple(codes), SIZE)
    return Detections(boxes, torch.tensor([0.9, 0.5, 0.25]), torch.tensor([7, 3, 7]), ("dog", "car", "dog"), outlines)


def image() -> np.ndarray:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[2:8, 1:5] = (250, 10, 20)
    return pixels


def test_filters_keep_boxes_names_and_masks_together(found: Detections):
    sure = found[found.scores > 0.4]
    assert sure.names == ("dog", "car") and sure.labels.tolist() == [7, 3] and sure.masks.shape == (2, *SIZE)
    dogs = found[found.named("dog")]
    assert dogs.scores.tolist() == torch.tensor([0.9, 0.25]).tolist() and dogs.masks[1].sum() == 1
    for same in (
        found[1:],
        found[[1, 2]],
        found[-2:],
        found[np.array([False, True, True])],
        found[torch.tensor([1, 2])],
    ):
        assert same.names == ("car", "dog") and torch.equal(same.masks, torch.from_numpy(bitmaps()[1:]).bool())
    assert len(found[[]]) == len(found[found.scores > 1]) == 0 and found[[]].masks.shape == (0, *SIZE)


@pytest.mark.parametrize("chosen", [3, -4, [0, 3], [True, False], torch.tensor([0.5])])
def test_what_selects_no_detection_is_refused(found: Detections, chosen: object):
    with pytest.raises(IndexError):
        found[chosen]


def test_iteration_gives_one_detection_after_another(found: Detections):
    assert [(each.name, each.label, round(each.score, 2)) for each in found] == [
        ("dog", 7, 0.9),
        ("car", 3, 0.5),
        ("dog", 7, 0.25),
    ]
    last = found[-1]
    assert last.box == (-3.0, -4.0, 0.5, 0.25) and last.mask.sum() == 1
    assert found.where(torch.tensor([0]))[0].mask.numpy().tolist() == bitmaps()[0].astype(bool).tolist()


def test_the_forms_for_files_hold_the_same_numbers(found: Detections):
    rows = json.loads(json.dumps(found.to_dict()))["results"]
    assert rows[1] | {"segmentation": None} == {
        **{"name": "car", "label": 3, "score": 0.5, "left": 12.25, "top": 10.0, "right": 28.5, "bottom": 19.0},
        "segmentation": None,
    }
    coco = json.loads(json.dumps(found.to_coco(image_id=42)))
    assert coco[1]["bbox"] == [12.25, 10.0, 16.25, 9.0] and {row["image_id"] for row in coco} == {42}
    for row, truth in zip(rows, bitmaps(), strict=True):
        assert coco_mask.decode(row["segmentation"]).tolist() == truth.tolist()
    assert [row["segmentation"] for row in coco] == [row["segmentation"] for row in rows]


def test_a_result_prints_as_one_line_of_names_and_scores(found: Detections):
    assert repr(found) == "<Detections: dog 0.90, car 0.50, dog 0.25>" and repr(found[:0]) == "<Detections: none>"
    many = found[[0] * 7].with_source("street.jpg", lambda given: image())
    assert repr(many) == f"<Detections in street.jpg: {'dog 0.90, ' * 5}2 more>"
    with pytest.raises(TypeError, match="'dog' is no index; results are selected by numbers, slices and masks"):
        found["dog"]  # type: ignore[call-overload]


def test_crops_are_the_parts_of_the_image_in_the_boxes(found: Detections):
    first, second, outside = found.crops(image())
    assert (np.asarray(first) == (250, 10, 20)).all() and first.size == (4, 6)
    assert second.size == (17, 9)  # columns 12 to 28, rows 10 to 18
    assert outside.size == (1, 1)


def test_notebooks_show_the_drawn_image_and_a_table(found: Detections):
    assert found._repr_png_() is None and "<img" not in found._repr_html_()  # results of `predict` have no image
    with pytest.raises(UserError, match="pass plot"):
        found.plot()
    with_image = found.with_source(image(), lambda given: given)
    shown = PIL.Image.open(io.BytesIO(with_image._repr_png_()))
    assert shown.size == with_image.plot().size == (540, 360)  # enlarged by 18 to at least 512 pixels
    page = with_image._repr_html_()
    assert page.count("<tr>") == 4 and "data:image/png;base64," in page and "<td>car</td>" in page
    many = found[[0] * 25]._repr_html_()
    assert many.count("<tr>") == 21 and "and 5 more" in many
    drawn = np.asarray(found.plot(image()))
    assert (drawn != np.asarray(found[[]].plot(image()))).any()


def test_a_table_has_a_row_for_each_box(found: Detections):
    pandas = pytest.importorskip("pandas")
    table = found.to_pandas()
    assert table.columns.tolist() == ["image", "name", "label", "score", "left", "top", "right", "bottom"]
    assert table[table.name == "dog"].label.tolist() == [7, 7]
    assert found[[]].to_pandas().columns.tolist() == table.columns.tolist()
    assert isinstance(table, pandas.DataFrame)


@dataclass
class StandIn:
    """The fields of `supervision.Detections`, checked as that class checks them."""

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray
    mask: np.ndarray | None
    data: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        count = len(self.xyxy)
        assert self.xyxy.shape == (count, 4) and self.confidence.shape == self.class_id.shape == (count,)
        assert self.mask is None or (self.mask.ndim == 3 and len(self.mask) == count and self.mask.dtype == bool)
        assert self.class_id.dtype.kind == "i" and all(len(values) == count for values in self.data.values())

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.data[name]


def test_supervision_draws_filters_and_merges_the_detections(found: Detections):
    supervision = pytest.importorskip("supervision")
    other = found.to_supervision()
    drawn = image()[..., ::-1].copy()
    for kind in ("BoxAnnotator", "MaskAnnotator", "LabelAnnotator"):
        before = drawn.copy()
        drawn = getattr(supervision, kind)().annotate(drawn, other)
        assert (drawn != before).any(), kind
    dogs = other[other.class_id == 7]
    assert len(dogs) == 2 and dogs["class_name"].tolist() == ["dog", "dog"] and len(dogs.mask) == 2
    both = supervision.Detections.merge([other, other])
    assert both.confidence.tolist() == 2 * found.scores.tolist() and len(both.with_nms(0.99)) == len(found)


def test_supervision_gets_boxes_masks_and_names(found: Detections, monkeypatch: pytest.MonkeyPatch):
    if find_spec("supervision") is None:  # a stand-in with the arguments of the real class
        stand_in = ModuleType("supervision")
        stand_in.Detections = StandIn  # type: ignore[attr-defined]
        monkeypatch.setattr("detection.results.optional", lambda name, extra: stand_in)
    other = found.to_supervision()
    assert other.xyxy.tolist() == found.boxes.tolist() and other.class_id.tolist() == [7, 3, 7]
    assert other["class_name"].tolist() == ["dog", "car", "dog"] and other.mask.tolist() == found.masks.tolist()
    assert len(found[[]].to_supervision()) == 0


def test_an_absent_package_is_named_with_its_extra(found: Detections, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backbones.common.packages.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pandas: is not installed; pip install 'resnet-transfer\[results\]'"):
        found.to_pandas()
