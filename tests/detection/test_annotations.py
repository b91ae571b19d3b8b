"""COCO annotations: packing, the category map, and the result or error for every malformed input."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from backbones.errors import UserError
from detection.data.annotations import CategoryMap, CocoAnnotations
from segmentation.data.coco import read_instances
from tools.evaluation import CocoEvaluator
from tools.evaluation.reading import read_truth


def read(coco, **options) -> CocoAnnotations:
    coco.write()
    return CocoAnnotations.read(coco.annotations(), coco.images(), **options)


def test_boxes_are_packed_by_image_and_labels_follow_the_order_of_category_ids(coco):
    data = read(coco)
    assert data.image_ids.tolist() == [5, 7, 9, 11]
    assert data.categories == CategoryMap((3, 18, 90), ("car", "dog", "brush"))
    boxes, labels, crowd = data.of_image(0)
    assert boxes.tolist() == [[10, 5, 30, 35], [0, 0, 8, 8]]  # x + w, y + h
    assert labels.tolist() == [2, 3]
    assert crowd.tolist() == [False, False]
    assert data.of_image(1)[0].shape == (0, 4)
    assert data.of_image(2)[2].tolist() == [False, True]
    assert data.empty().tolist() == [False, True, False, True]  # a crowd alone is not an object


def test_order_of_the_file_does_not_matter(coco):
    straight = read(coco)
    coco.data["images"].reverse()
    coco.data["annotations"].sort(key=lambda annotation: -annotation["image_id"])
    turned = read(coco)
    assert turned.image_ids.tolist() == straight.image_ids.tolist()
    assert turned.of_image(0)[0].tolist() == straight.of_image(0)[0].tolist()


def test_area_and_crowd_flag_may_be_missing(coco):
    for annotation in coco.data["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    assert not read(coco).crowd.any()


def test_boxes_are_clipped_to_their_image_and_counted(coco):
    coco.data["annotations"][0]["bbox"] = [50, 30, 40, 40]
    data = read(coco)
    assert data.of_image(0)[0][0].tolist() == [50, 30, 60, 40]
    assert data.clipped == 1


def test_a_file_without_annotations_has_only_negatives(coco):
    coco.data["annotations"] = []
    assert read(coco).empty().all()


BROKEN = {
    "no images list": (lambda d: d.pop("images"), "has no list `images`"),
    "no annotations list": (lambda d: d.pop("annotations"), "has no list `annotations`"),
    "empty images": (lambda d: d.update(images=[], annotations=[]), "`images` is empty"),
    "no categories": (lambda d: d.update(categories=[]), "`categories` is empty"),
    "absent image": (lambda d: d["annotations"][0].update(image_id=77), "annotation 1 names image 77"),
    "absent category": (lambda d: d["annotations"][1].update(category_id=4), "annotation 2 has category 4"),
    "image twice": (lambda d: d["images"][1].update(id=5), "image id 5 is a duplicate"),
    "category twice": (lambda d: d["categories"][0].update(id=3), "category id 3 is a duplicate"),
    "no box": (lambda d: d["annotations"][2].pop("bbox"), "annotation 4: `bbox` is missing"),
    "three numbers": (lambda d: d["annotations"][2].update(bbox=[1, 2, 3]), "annotation 4: `bbox` is [1, 2, 3]"),
    "not a number": (lambda d: d["annotations"][2].update(bbox=[1, 2, 3, float("nan")]), "annotation 4: `bbox`"),
    "zero width": (lambda d: d["annotations"][0].update(bbox=[3, 3, 0, 9]), "annotation 1 of image 5"),
    "outside": (lambda d: d["annotations"][0].update(bbox=[70, 3, 9, 9]), "annotation 1 of image 5"),
    "fractions": (lambda d: [a.update(bbox=[0.1, 0.2, 0.5, 0.4]) for a in d["annotations"]], "lie between 0 and 1"),
    "rounded fractions": (
        lambda d: [a.update(bbox=[-0.01, 0.2, 0.5, 0.4]) for a in d["annotations"]],
        "lie between 0 and 1",
    ),
    "file not there": (lambda d: d["images"][0].update(file_name="gone.jpg"), "image file gone.jpg is not in"),
    "text id": (lambda d: d["images"][0].update(id="a"), "`id` is 'a'; expected an integer"),
    "huge id": (lambda d: d["images"][0].update(id=2**53), "expected an integer between -2^53 and 2^53"),
    "no number": (lambda d: d["images"][0].update(width=float("nan")), "`width` is nan"),
    "no height": (lambda d: d["images"][0].update(height=0), "`height` is 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_malformed_files_are_refused_in_one_line_that_names_file_and_record(coco, name):
    change, text = BROKEN[name]
    coco.write()
    change(coco.data)
    coco.annotations().write_text(json.dumps(coco.data))
    with pytest.raises(UserError) as error:
        CocoAnnotations.read(coco.annotations(), coco.images())
    assert text in str(error.value)
    assert str(coco.annotations()) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../val2017/005.jpg", "a/../005.jpg", "{root}/val2017/005.jpg"])
def test_file_names_that_lead_out_of_the_folder_are_refused_unless_allowed(coco, name):
    coco.write()
    (coco.images() / "a").mkdir()
    coco.data["images"][0]["file_name"] = name.format(root=coco.root)
    coco.annotations().write_text(json.dumps(coco.data))
    with pytest.raises(UserError, match=r"image 5: `file_name` '.*' leads out of the image folder; .* --allow-outside"):
        CocoAnnotations.read(coco.annotations(), coco.images())
    assert len(CocoAnnotations.read(coco.annotations(), coco.images(), allow_outside=True)) == 4


def test_a_file_that_would_fit_a_name_that_leads_out_is_named(coco):
    coco.write()
    coco.data["images"][0]["file_name"] = "/data/train/005.jpg"
    coco.annotations().write_text(json.dumps(coco.data))
    with pytest.raises(UserError, match=r"leads out of the image folder; .*; the folder has 005\.jpg"):
        CocoAnnotations.read(coco.annotations(), coco.images())


@pytest.mark.parametrize(
    "name", ["train2017/{}", "data\\train\\{}", "/data/local-files/?d=my%20set/{}", ".\\{}", "a/b/{}"]
)
def test_other_tools_notations_of_file_names_are_read_and_counted(coco, name: str):
    coco.write()
    for image in coco.data["images"][:2]:
        image["file_name"] = name.replace("\\", "\\").format(image["file_name"])
    coco.annotations().write_text(json.dumps(coco.data))
    data = CocoAnnotations.read(coco.annotations(), coco.images())
    assert data.file_names.tolist() == ["005.jpg", "007.jpg", "009.jpg", "011.jpg"]
    ((what, count),) = data.notes.items()
    assert what.startswith("file names replaced by those of fitting files (") and count == 2


def test_a_file_that_fits_two_images_is_refused(coco):
    coco.write()
    coco.data["images"][1]["file_name"] = "other/005.jpg"
    coco.annotations().write_text(json.dumps(coco.data))
    with pytest.raises(UserError, match=r"images 5 and 7 both lead to the file 005\.jpg"):
        CocoAnnotations.read(coco.annotations(), coco.images())


def test_harmless_differences_are_read_as_in_evaluation_and_counted(coco):
    """Annotation ids that are missing or repeated, whole numbers with a point, and sizes that are missing."""
    plain = read(coco)
    coco.data["annotations"][1]["id"] = coco.data["annotations"][0]["id"]
    coco.data["annotations"][2].pop("id")
    coco.data["annotations"][3].update(image_id=9.0, category_id=3.0)
    coco.data["images"][0].update(id=5.0, width=None)
    coco.data["images"][1].pop("height")
    coco.data["categories"][0]["id"] = float(coco.data["categories"][0]["id"])
    data = read(coco)
    assert data.notes == {"sizes read from the image files": 2, "annotations with a missing or repeated id": 2}
    for name in ("image_ids", "sizes", "boxes", "labels", "crowd", "offsets"):
        assert getattr(data, name).tolist() == getattr(plain, name).tolist()
    evaluator = CocoEvaluator(coco.annotations())
    assert evaluator.image_ids == data.image_ids.tolist() and not plain.notes


def test_links_and_subfolders_count_as_inside_the_folder(coco):
    coco.write()
    (coco.images() / "more").symlink_to(coco.images("val"))
    (coco.images() / "link.jpg").symlink_to(coco.images("val") / "007.jpg")
    coco.data["images"][0]["file_name"] = "more/005.jpg"
    coco.data["images"][1]["file_name"] = "link.jpg"
    coco.annotations().write_text(json.dumps(coco.data))
    assert len(CocoAnnotations.read(coco.annotations(), coco.images())) == 4


def test_the_image_folder_is_listed_once(coco, monkeypatch):
    coco.write()
    listed, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scan(folder))
    CocoAnnotations.read(coco.annotations(), coco.images())
    assert listed == [coco.images()]


def test_absent_images_can_be_kept(coco):
    coco.write()
    (coco.images() / "007.jpg").unlink()
    assert len(CocoAnnotations.read(coco.annotations(), coco.images(), absent_images="keep")) == 4


def test_bad_boxes_can_be_dropped_and_are_counted(coco):
    coco.data["annotations"][0]["bbox"] = [3, 3, 0, 9]
    data = read(coco, bad_boxes="drop")
    assert data.dropped == 1
    assert data.of_image(0)[1].tolist() == [3]


@pytest.mark.parametrize(("content", "text"), [("{", "not JSON"), ("[]", "holds a list")])
def test_a_file_that_is_not_a_coco_json(tmp_path: Path, content, text):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=text):
        CocoAnnotations.read(path, tmp_path)


def test_a_missing_file_and_a_missing_folder(coco, tmp_path: Path):
    coco.write()
    with pytest.raises(UserError, match="cannot be read"):
        CocoAnnotations.read(tmp_path / "no.json", tmp_path)
    with pytest.raises(UserError, match="no such folder, but"):
        CocoAnnotations.read(coco.annotations(), tmp_path / "no")


def test_category_maps_that_differ_show_the_difference():
    cats, dogs = CategoryMap((1, 2), ("cat", "dog")), CategoryMap((1, 3), ("cat", "dog"))
    cats.require_same(CategoryMap((1, 2), ("cat", "dog")), here="a", there="b")
    with pytest.raises(UserError, match=r"differ in 2 ids \(2: dog / absent, 3: absent / dog\)"):
        cats.require_same(dogs, here="a", there="b")
    cats.require_same(CategoryMap((1, 2), ("Cat", "DOG")), here="a", there="b")
    with pytest.raises(UserError, match=r"differ in 1 ids \(2: CAT / Cat\)"):
        CategoryMap((1, 2), ("cat", "CAT")).require_same(CategoryMap((1, 2), ("cat", "Cat")), here="a", there="b")


def test_negative_ids_and_categories_without_a_name_are_read_alike_by_training_and_evaluation(coco):
    """Boxes, label maps and the evaluation name a category without a name by its id."""
    coco.data["categories"] = [{"id": -18, "name": None}, {"id": 3, "name": ""}, {"id": 90}]
    coco.data["images"][0]["id"] = -5
    for annotation in coco.data["annotations"]:
        annotation["image_id"] = {5: -5}.get(annotation["image_id"], annotation["image_id"])
        annotation["category_id"] = {18: -18}.get(annotation["category_id"], annotation["category_id"])
        annotation |= {"id": -annotation["id"], "segmentation": [[0, 0, 9, 0, 9, 9]]}
    names = {-18: "-18", 3: "3", 90: "90"}
    boxes = read(coco)
    assert dict(zip(boxes.categories.ids, boxes.categories.names)) == names
    assert boxes.image_ids.tolist() == [-5, 7, 9, 11] and boxes.of_image(0)[1].tolist() == [1, 3]
    labels, truth = read_instances(coco.annotations(), coco.images(), notes=Counter()), read_truth(coco.annotations())
    for categories in (labels["categories"], truth["categories"]):
        assert {category["id"]: category["name"] for category in categories} == names


def test_a_category_whose_name_is_no_text_is_refused_alike(coco):
    coco.data["categories"][0]["name"] = ["dog"]
    for read_file in (read, lambda coco: read_truth(coco.annotations())):
        with pytest.raises(UserError, match=r"`name` is \['dog'\]; expected a text"):
            read_file(coco)


def test_packed_annotations_need_a_few_bytes_per_box(coco):
    coco.data["annotations"] = [{"id": i, "image_id": 5, "category_id": 3, "bbox": [1, 1, 9, 9]} for i in range(20_000)]
    data = read(coco)
    assert sum(array.nbytes for array in (data.boxes, data.labels, data.crowd)) <= 32 * 20_000
    assert not any(array.dtype == object for array in vars(data).values() if isinstance(array, np.ndarray))


def test_real_coco(coco_mini: Path):
    data = CocoAnnotations.read(coco_mini / "annotations" / "instances_val2017.json", coco_mini / "val2017")
    assert len(data) == 79
    assert len(data.categories) == 80
    assert data.categories.ids[-1] == 90
    assert len(data.boxes) == 624
