"""LVIS's files and metrics: on each image only the categories count that the annotators searched for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import CocoFolder

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from tools.evaluation import CocoEvaluator, format_table

CAT, DOG, ANT = 1, 2, 3


@pytest.fixture
def lvis() -> dict[str, Any]:
    """Two images with a cat each. The first was searched for dogs too; in the second, not all cats are annotated."""
    common = {"width": 100, "height": 100}
    return {
        "images": [
            {"id": 1, **common, "neg_category_ids": [DOG], "not_exhaustive_category_ids": []},
            {"id": 2, **common, "neg_category_ids": [], "not_exhaustive_category_ids": [CAT]},
        ],
        "annotations": [
            {"id": key, "image_id": key, "category_id": CAT, "bbox": [0, 0, 40, 40], "area": 1600} for key in (1, 2)
        ],
        "categories": [
            {"id": CAT, "name": "cat", "frequency": "f"},
            {"id": DOG, "name": "dog", "frequency": "c"},
            {"id": ANT, "name": "ant", "frequency": "r"},
        ],
    }


def found(image: int, category: int, score: float, x: float = 0) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [x, 0, 40, 40], "score": score}


def figures(truth: dict[str, Any], *detections: dict[str, Any]) -> dict[str, Any]:
    evaluator = CocoEvaluator(truth, protocol="lvis")
    evaluator.load(list(detections))
    return evaluator.compute()


def test_only_detections_of_searched_categories_are_wrong(lvis: dict[str, Any]):
    """An extra cat in an incomplete search, and an ant on an image not searched for ants, do not count."""
    hits = [found(1, CAT, 0.8), found(2, CAT, 0.7)]
    results = figures(lvis, *hits, found(2, CAT, 0.9, x=50), found(1, ANT, 0.9))
    assert results["LVIS_AP"] == results["LVIS_APf"] == pytest.approx(1)
    assert results["LVIS_APr"] is None and results["LVIS_APc"] is None
    assert results["AP"] < 0.8 and any("LVIS's metrics ignore them" in text for text in results["warnings"])
    assert "\nLVIS: AP 100.0" in format_table(results)
    assert figures(lvis)["LVIS_AP"] == 0
    # A wrong cat with the highest score on the searched image: precisions 1/2 and 2/3, so 2/3 at all recalls.
    assert figures(lvis, *hits, found(1, CAT, 0.9, x=50))["LVIS_AP"] == pytest.approx(2 / 3)


def test_malformed_fields_of_lvis_are_a_user_error(lvis: dict[str, Any]):
    lvis["images"][0]["neg_category_ids"] = "dog"
    with pytest.raises(UserError, match="not a LVIS file"):
        figures(lvis, found(1, CAT, 0.8))


def test_file_names_come_from_the_addresses(coco: CocoFolder):
    """LVIS's images are in both of COCO's folders and have no `file_name`."""
    coco.write()
    for image in coco.data["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    path = Path(coco.annotations())
    path.write_text(json.dumps(coco.data))
    data = CocoAnnotations.read(path, coco.root)
    assert data.file_names.tolist()[0] == "val2017/005.jpg" and data.protocol == "lvis"
    assert CocoAnnotations.read(coco.annotations("val"), coco.images("val")).protocol == "coco"
