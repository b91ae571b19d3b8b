"""Metrics of masks and of their boundaries: hand-computed sets, equal engines, a reference, malformed masks."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from pycocotools import mask as reference

from backbones.errors import UserError
from tools.eval_coco import main
from tools.evaluation import CocoEvaluator, format_table
from tools.evaluation.boundary import boundary
from tools.evaluation.masks import compress_all
from tools.evaluation.summary import METRICS, class_summary

ONE = pytest.approx(1.0, abs=1e-12)  # precision is tp / (tp + fp + 2e-16), so a perfect AP falls just short
ENGINES = ("hotcoco", "pycocotools")
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]  # 20 x 20 pixels
PUBLISHED = {  # by the authors of the COCO API, for the results that they distribute with it
    "bbox": [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564],
    "segm": [0.320, 0.562, 0.299, 0.387, 0.310, 0.327, 0.268, 0.415, 0.417, 0.469, 0.377, 0.381],
}


def pixels(y: int, x: int, height: int, width: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Return a mask of `size` with a rectangle."""
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    return mask


def code(mask: np.ndarray) -> dict[str, Any]:
    """Return the compressed run-length code of a mask as JSON holds it."""
    found = reference.encode(np.asfortranarray(mask))
    return {"size": found["size"], "counts": found["counts"].decode()}


def runs(mask: np.ndarray) -> dict[str, Any]:
    """Return the uncompressed run-length code of a mask."""
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    bounds = np.flatnonzero(np.diff(flat.astype(int)))
    counts = np.diff(np.concatenate([[0], bounds])).tolist()
    return {"size": list(mask.shape), "counts": counts}


def truth(*masks: Any, crowd: int = 0, size: tuple[int, int] = (60, 80)) -> dict[str, Any]:
    """Return ground truth with an object of category 3 on image 5 for each mask; image 6 is empty."""
    return {
        "images": [{"id": key, "height": size[0], "width": size[1]} for key in (5, 6)],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {
                "id": number + 1,
                "image_id": 5,
                "category_id": 3,
                "bbox": [10.0, 10.0, 20.0, 20.0],
                "area": 400.0,
                "iscrowd": crowd,
                "segmentation": mask,
            }
            for number, mask in enumerate(masks)
        ],
    }


def result(mask: Any, score: float = 0.9, image: int = 5) -> dict[str, Any]:
    return {"image_id": image, "category_id": 3, "segmentation": mask, "score": score}


def score(gt: Any, dt: Any, engine: Any = "hotcoco", iou: Any = "segm", **options: Any) -> dict[str, Any]:
    evaluator = CocoEvaluator(gt, engine=engine, iou_types=(iou,), **options)
    evaluator.load(dt)
    return evaluator.compute()


def blob(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return a random ellipse or rectangle, which may touch or leave the image."""
    y, x = np.mgrid[: size[0], : size[1]]
    cy, cx, h, w = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(2, 30), rng.uniform(2, 30)
    power = rng.choice([2, 40])
    return np.asfortranarray((np.abs((y - cy) / h) ** power + np.abs((x - cx) / w) ** power <= 1).astype(np.uint8))


def random_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a set with crowds, empty masks, equal scores, touching masks, polygons, and images without objects."""
    rng = np.random.default_rng(seed)
    sizes = {int(key): (int(rng.integers(30, 70)), int(rng.integers(30, 90))) for key in rng.choice(999, 6, False)}
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for key, size in list(sizes.items())[:5]:  # the last image has neither objects nor detections
        masks = [blob(rng, size) for _ in range(rng.integers(0, 6))]
        if masks:
            masks.append(np.asfortranarray(np.roll(masks[0], 1, axis=1) & ~masks[0] & 1))  # touches the first one
        for mask in masks:
            crowd, form = int(rng.random() < 0.2), rng.integers(3)
            x, y, w, h = reference.toBbox(code(mask)).tolist()
            outline = [[x, y, x + w, y, x + w, y + h + 2.5, x, y + h]]
            record = {"id": len(annotations) + 1, "image_id": key, "category_id": int(rng.choice([1, 4]))}
            record |= {"bbox": [x, y, w, h], "area": float(mask.sum()) * rng.choice([1, 20]), "iscrowd": crowd}
            record["segmentation"] = runs(mask) if crowd else [outline, code(mask), runs(mask)][form]
            annotations.append(record)
        for _ in range(rng.integers(1, 15)):
            near = np.roll(masks[rng.integers(len(masks))], rng.integers(-2, 3, 2), (0, 1)) if masks else None
            mask = blob(rng, size) if near is None or rng.random() < 0.3 else near
            mask = mask * (rng.random() > 0.1)
            tied, free = rng.integers(0, 6) / 6, rng.random()
            record = {"image_id": key, "category_id": int(rng.choice([1, 4, 9])), "score": tied if seed % 2 else free}
            results.append({**record, "segmentation": code(mask.astype(np.uint8))})
    images = [{"id": key, "height": size[0], "width": size[1]} for key, size in sizes.items()]
    categories = [{"id": key, "name": f"c{key}"} for key in (9, 1, 4)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


@pytest.mark.parametrize("engine", ENGINES)
def test_hand_computed_mask_ious(engine: str) -> None:
    """Both detections have the box of their object, but not its mask.

    The square has 20 x 20 = 400 pixels. The first mask has its left 16 columns and a corner pixel at the right end:
    321 of 400 pixels, IoU 0.8025, a match at .50 ... .80: 7 of 10 thresholds. The second mask has 12 columns of the
    other square and a corner pixel: 241 / 400 = 0.6025, a match at .50, .55, .60: 3 of 10 thresholds.
    Precision is 1 where both match, at 3 thresholds. At 4 thresholds the first one of two objects is found: precision
    1 at the recalls 0 ... 0.50, 51 of 101.
    """
    first, second = pixels(10, 10, 20, 16), pixels(10, 50, 20, 12)
    first[29, 29], second[29, 69] = 1, 1
    gt = truth(SQUARE, runs(pixels(10, 50, 20, 20)))
    figures = score(gt, [result(code(first), 0.9), result(code(second), 0.8)], engine)
    assert figures["segm_AP50"] == figures["segm_APs"] / figures["segm_AP"] == ONE
    assert figures["segm_AP"] == pytest.approx((3 + 4 * 51 / 101) / 10)
    assert figures["segm_AP75"] == pytest.approx(51 / 101)
    assert figures["segm_AR100"] == pytest.approx((3 * 1 + 4 * 0.5) / 10)
    assert score(gt, [{**result(code(m)), "bbox": [x, 10, 20, 20]} for m, x in ((first, 10), (second, 50))], engine)[
        "segm_AP"
    ] == pytest.approx((3 + 4 * 51 / 101) / 10)
    assert "AP" not in figures


@pytest.mark.parametrize("seed", range(12))
def test_engines_agree_bit_for_bit(seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gt, dt = random_set(seed)
    gt_path, dt_path = tmp_path / "gt.json", tmp_path / "dt.json"
    gt_path.write_text(json.dumps(gt))
    dt_path.write_text(json.dumps(dt))
    expected = score(copy.deepcopy(gt), dt, "pycocotools")
    assert score(gt, dt) == score(gt_path, dt_path) == expected
    boxed = [{**record, "bbox": [1.0, 2.0, 3.0, 4.0]} for record in dt]  # the boxes do not count, nor do their areas
    dt_path.write_text(json.dumps(boxed))
    figures = score(gt_path, dt_path)
    assert {name: figures[f"segm_{name}"] for name in METRICS} == {name: expected[f"segm_{name}"] for name in METRICS}
    assert score(gt, dt, iou="boundary") == score(gt, dt, "pycocotools", "boundary")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seed", [1, 2])
def test_metrics_equal_those_that_pycocotools_prints(seed: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    gt, dt = random_set(seed)
    coco = COCO()
    coco.dataset = copy.deepcopy(gt)
    coco.createIndex()
    matching = COCOeval(coco, coco.loadRes(copy.deepcopy(dt)), "segm")
    matching.evaluate()
    matching.accumulate()
    matching.summarize()
    figures = score(gt, dt)
    assert [-1 if figures[f"segm_{name}"] is None else figures[f"segm_{name}"] for name in METRICS] == (
        matching.stats.tolist()
    )


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask from which a square of 2 d + 1 pixels reaches the background or leaves the image."""
    height, width = mask.shape
    d = max(1, round(0.02 * float(np.sqrt(height**2 + width**2))))
    padded = np.pad(mask, d)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * d + 1, 2 * d + 1))
    return mask & ~windows.all(axis=(2, 3))


def plain_boundary_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return the smaller one of mask IoU and boundary IoU of two masks."""

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        return float((a & b).sum() / max((a | b).sum(), 1))

    return min(iou(one, other), iou(plain_boundary(one), plain_boundary(other)))


def test_the_boundary_of_a_mask_by_hand() -> None:
    """60 x 80 pixels have a diagonal of 100, so that the boundary is 2 pixels wide.

    A square of 20 x 20 has an inner part of 16 x 16. At the border of the image the boundary runs along the border.
    """
    assert reference.area(boundary(code(pixels(10, 10, 20, 20)))) == 400 - 256
    assert reference.area(boundary(code(pixels(0, 0, 60, 80)))) == 60 * 80 - 56 * 76
    assert reference.area(boundary(code(pixels(0, 0, 3, 3)))) == 9
    assert reference.area(boundary(code(pixels(0, 0, 0, 0)))) == 0
    rng = np.random.default_rng(0)
    for size in ((60, 80), (200, 40), (12, 9)):
        for _ in range(20):
            mask = blob(rng, size)
            assert np.array_equal(reference.decode(boundary(code(mask))), plain_boundary(mask))


@pytest.mark.parametrize("engine", ENGINES)
def test_boundary_ap_of_one_pair_by_a_plain_reference(engine: str) -> None:
    """A square and the same square moved by one pixel: IoU 380 / 420 of masks, lower of boundaries."""
    one, other = pixels(10, 10, 20, 20), pixels(10, 11, 20, 20)
    iou = plain_boundary_iou(one, other)
    assert iou < 380 / 420
    figures = score(truth(code(one)), [result(code(other))], engine, "boundary")
    matched = sum(iou >= threshold for threshold in np.linspace(0.5, 0.95, 10))
    assert figures["boundary_AP"] == pytest.approx(matched / 10) and 0 < matched < 9
    crowd = score(truth(code(one), code(one), crowd=1), [result(code(other))], engine, "boundary")
    assert crowd["boundary_AP"] is None and "only crowd regions" in crowd["reasons"]["boundary_AP"]


@pytest.mark.parametrize("seed", [3, 4])
def test_boundary_ap_agrees_with_a_plain_reference(seed: int) -> None:
    """The reference replaces the IoU of pycocotools' evaluation by one that is computed from whole bitmaps."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class Plain(COCOeval):  # type: ignore[misc]
        def plain_iou(self, image: int, category: int) -> Any:
            objects, found = self._gts[image, category], self._dts[image, category]
            if not objects or not found:
                return []
            found = [found[index] for index in np.argsort([-each["score"] for each in found], kind="mergesort")]
            ious = reference.iou(
                *([e["segmentation"] for e in side] for side in (found, objects)), [o["iscrowd"] for o in objects]
            )
            for row, detection in enumerate(found):
                for column, each in enumerate(objects):
                    if not each["iscrowd"]:
                        bitmaps = (reference.decode(side["segmentation"]) for side in (detection, each))
                        ious[row, column] = plain_boundary_iou(*bitmaps)
            return ious

        computeIoU = plain_iou  # noqa: N815

    gt, dt = random_set(seed)
    coco = COCO()
    coco.dataset = copy.deepcopy(gt)
    coco.createIndex()
    matching = Plain(coco, coco.loadRes(copy.deepcopy(dt)), "segm")
    matching.evaluate()
    matching.accumulate()
    matching.summarize()
    figures = score(gt, dt, iou="boundary")
    assert 0 < figures["boundary_AP"] < score(gt, dt)["segm_AP"]
    assert [-1 if figures[f"boundary_{name}"] is None else figures[f"boundary_{name}"] for name in METRICS] == (
        matching.stats.tolist()
    )


@pytest.mark.parametrize("processes", [1, 2, 3, 15])
def test_merge_is_the_same_for_any_number_of_processes(processes: int) -> None:
    """Boxes, masks and boundaries are scored together; with 15 processes, some have no images."""
    gt, results = random_set(1)
    ids = [image["id"] for image in gt["images"]]

    def part(images: list[int]) -> CocoEvaluator:
        evaluator = CocoEvaluator(gt, iou_types=("boundary", "segm", "bbox"))
        for image in images:
            own = [record for record in results if record["image_id"] == image]
            boxes = [reference.toBbox(record["segmentation"]) for record in own]
            evaluator.update(
                [
                    {
                        "boxes": np.array([[*box[:2], *(box[:2] + box[2:])] for box in boxes]).reshape(-1, 4),
                        "scores": [record["score"] for record in own],
                        "labels": [record["category_id"] for record in own],
                        "rles": [
                            {**record["segmentation"], "counts": record["segmentation"]["counts"].encode()}
                            for record in own
                        ],
                    }
                ],
                [{"image_id": image}],
            )
        return evaluator

    parts = [part(ids[rank::processes]) for rank in range(processes)]
    parts[-1].merge([pickle.loads(pickle.dumps(each.state())) for each in parts])
    alone = part(ids)
    assert json.dumps(parts[-1].detections()) == json.dumps(alone.detections())
    assert json.dumps(parts[-1].compute()) == json.dumps(alone.compute())
    figures, again = alone.compute(), json.loads(json.dumps(alone.detections()))
    for iou, prefix in (("bbox", ""), ("segm", "segm_"), ("boundary", "boundary_")):
        single = score(gt, again, iou=iou)
        assert {name: figures[prefix + name] for name in METRICS} == {name: single[prefix + name] for name in METRICS}
    shown = format_table(figures, per_class=True)
    assert [line.split("  ")[-1] for line in shown.splitlines()[2:5]] == ["boxes", "masks", "mask boundaries"]
    assert "AP   AP50  segm AP  segm AP50  boundary AP  boundary AP50" in shown
    assert "boundary AP50" in class_summary(figures["per_class"])


def test_well_formed_files_are_read_by_hotcoco(tmp_path: Path) -> None:
    gt, dt = random_set(2)
    assert {type(record["segmentation"]) for record in gt["annotations"]} == {dict, list}
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    (tmp_path / "dt.json").write_text(json.dumps(dt))
    evaluator = CocoEvaluator(tmp_path / "gt.json", iou_types=("segm",))
    evaluator.load(tmp_path / "dt.json")
    assert evaluator._native is not None and evaluator._engine._truth is None  # type: ignore[attr-defined]
    assert len(evaluator.detections()) == len(dt)


BOMB = {"size": [40_000, 25_000], "counts": [0, 10**9]}
FULL = code(pixels(10, 10, 20, 20))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (code(pixels(1, 1, 5, 5, (30, 80))), "a mask of [30, 80] for an image of [60, 80]"),
        ({"size": [60, 80], "counts": [100, 20, 100]}, "run lengths add up to 220, not 60 x 80"),
        ({"size": [60, 80], "counts": FULL["counts"][:-3]}, "run lengths add up to"),
        ({"size": [60, 80], "counts": FULL["counts"] + "1"}, "run lengths add up to"),
        ({"size": [60, 80], "counts": ""}, "run lengths add up to 0"),
        ({"size": [60, 80], "counts": "no RLE at all"}, "`counts` is no compressed text, or cut short"),
        ({"size": [60, 80], "counts": "o" * 40 + "0"}, "a run longer than an image"),
        ({"size": [60, 80], "counts": [-5, 4805]}, "no list of pixel counts"),
        ({"size": [60, 80]}, "a `size` and `counts`"),
        (BOMB, "a mask of [40000, 25000] for an image of [60, 80]"),
        ({"size": [60, 80], "counts": [0, 10**9]}, "no list of pixel counts"),
        ([[1, 1, 5, 5]], "at least three points"),
        ([[1, 1, 5, 5, 9]], "at least three points"),
        ([[1, 1, 5, float("nan"), 9, 9]], "at least three points"),
        ([1, 1, 5, 5, 9, 9], "at least three points"),
        ([], "no polygon"),
        ("mask", "the value 'mask'"),
        (None, "`segmentation` is missing"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_malformed_masks_are_refused_in_one_line(engine: Any, mask: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps([result(FULL), result(mask)]))
    evaluator = CocoEvaluator(truth(SQUARE), engine=engine, iou_types=("segm",))
    with pytest.raises(UserError) as caught:
        evaluator.load(path)
    assert f"{path}: result 1" in str(caught.value)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    path.write_text(json.dumps(truth(SQUARE, mask)))
    with pytest.raises(UserError) as caught:
        CocoEvaluator(path, engine=engine, iou_types=("segm",))
    assert f"{path}: annotations[1]" in str(caught.value)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    found = {"boxes": [[10, 10, 30, 30]], "scores": [0.5], "labels": [3], "rles": [mask]}
    with pytest.raises(UserError, match="image 5: predicted mask 0"):
        evaluator.update([found], [{"image_id": 5}])


@pytest.mark.parametrize("engine", ENGINES)
def test_points_far_outside_the_image_are_cut_off(engine: str, tmp_path: Path) -> None:
    """The polygon covers the part of the image from pixel 10 on to the right and to the bottom."""
    far = [[10, 10, 1e9, 10, 1e9, 1e9, 10, 1e9]]
    (tmp_path / "gt.json").write_text(json.dumps(truth(far)))
    for outline in (far, code(pixels(10, 10, 50, 70))):
        assert score(tmp_path / "gt.json", [result(outline)], engine)["segm_AP"] == ONE


def test_an_image_too_large_for_masks_is_refused(tmp_path: Path) -> None:
    """The header of ground truth claims 10^9 pixels."""
    (tmp_path / "gt.json").write_text(json.dumps(truth(BOMB, size=(40_000, 25_000))))
    with pytest.raises(UserError, match=r"annotations\[0\]: its image has 40000 x 25000 pixels, too many"):
        CocoEvaluator(tmp_path / "gt.json", iou_types=("segm",))


@pytest.mark.parametrize("size", [(None, 80), (0, 80), (60.5, 80)])
def test_masks_need_the_sizes_of_images(size: Any, tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(truth(SQUARE, size=size)))
    with pytest.raises(UserError, match="image 5: `width` and `height` must be positive integers"):
        CocoEvaluator(tmp_path / "gt.json", iou_types=("segm",))


def test_missing_and_miscounted_masks_of_a_model_are_refused() -> None:
    evaluator = CocoEvaluator(truth(SQUARE), iou_types=("bbox", "segm"))
    found: dict[str, Any] = {"boxes": [[10, 10, 30, 30]], "scores": [0.5], "labels": [3]}
    with pytest.raises(UserError, match="image 5: the prediction has no `rles` for 1 boxes"):
        evaluator.update([found], [{"image_id": 5}])
    with pytest.raises(UserError, match="image 5: the prediction has 2 `rles` for 1 boxes"):
        evaluator.update([{**found, "rles": [FULL, FULL]}], [{"image_id": 5}])
    assert evaluator.detections() == []


def test_masks_of_all_forms_are_compressed_alike() -> None:
    square = pixels(10, 10, 20, 20)
    forms: list[Any] = [SQUARE, runs(square), code(square), reference.encode(square)]
    assert compress_all(forms, [(60, 80)] * 4, str) == [FULL] * 4


def test_unknown_iou_types_and_other_protocols_are_refused() -> None:
    with pytest.raises(UserError, match=r"iou_types .*: use one or several of bbox, segm, boundary"):
        CocoEvaluator(truth(SQUARE), iou_types=("mask",))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="protocol voc: its metrics compare boxes"):
        CocoEvaluator(truth(SQUARE), iou_types=("segm",), protocol="voc")


@pytest.mark.parametrize(("iou", "reason"), [("segm", "all IoUs of masks"), ("boundary", "no mask has an IoU")])
def test_an_ap_of_masks_of_zero_is_explained(iou: str, reason: str) -> None:
    """The box of the mask is that of its object, but the mask is its outline: 76 of 400 pixels."""
    outline = pixels(10, 10, 20, 20) - pixels(11, 11, 18, 18)
    figures = score(truth(SQUARE), [result(code(outline))], iou=iou)
    assert figures[f"{iou}_AP"] == 0 and reason in figures["reasons"][f"{iou}_AP"]
    assert figures["reasons"][f"{iou}_AP"] in format_table(figures)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_limit_of_detections_holds_for_masks(engine: str) -> None:
    """A limit of 100 finds 100 of 110 objects: precision 1 at the recalls 0 ... 0.90, 91 of 101."""
    masks = [code(pixels(2 * (index // 30), 2 * (index % 30), 1, 1)) for index in range(110)]
    dt = [result(mask, 0.5 + index / 1000) for index, mask in enumerate(masks)]
    assert score(truth(*masks), dt, engine)["segm_AP"] == pytest.approx(91 / 101)
    assert score(truth(*masks), dt, engine, max_detections=110)["segm_AP"] == ONE


def test_names_of_images_select_the_masks_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt = truth(SQUARE)
    for image in gt["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    names = {"images": [{"id": 1, "file_name": "other.jpg"}, {"id": 2, "file_name": "5.jpg"}]}
    empty = code(pixels(0, 0, 0, 0))
    for file, content in (
        ("gt.json", gt),
        ("dt.json", [result(empty, image=1), result(FULL, image=2)]),
        ("images.json", names),
    ):
        (tmp_path / file).write_text(json.dumps(content))
    words = ["--annotations", str(tmp_path / "gt.json"), "--detections", str(tmp_path / "dt.json"), "--iou", "segm"]
    main([*words, "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["segm_AP"] == ONE
    assert "their 1 detections are left out" in capsys.readouterr().out


def test_results_with_boxes_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(truth(SQUARE)))
    boxes = [{"image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 20], "score": 0.5}]
    (tmp_path / "dt.json").write_text(json.dumps(boxes))
    words = ["--annotations", str(tmp_path / "gt.json"), "--detections", str(tmp_path / "dt.json"), "--iou", "segm"]
    with pytest.raises(UserError, match=r"dt\.json: result 0: `segmentation` is missing; add the masks"):
        main(words)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_crowd_without_a_mask_has_its_box_as_its_mask(engine: str) -> None:
    """The second detection lies on the crowd and does not count: precision stays 1."""
    gt = truth(runs(pixels(40, 50, 15, 20)), None)
    gt["annotations"][1]["iscrowd"] = 1
    dt = [result(code(pixels(40, 50, 15, 20)), 0.5), result(FULL, 0.9)]
    assert score(gt, dt, engine)["segm_AP"] == ONE


@pytest.mark.parametrize("iou", ["bbox", "segm"])
def test_the_published_figures_of_coco(iou: str, tmp_path: Path) -> None:
    folder = ROOT.parent / "shared/data/coco-published"
    if not folder.is_dir():
        pytest.skip("coco-published is not here")
    output = tmp_path / "out.json"
    words = ["--annotations", str(folder / "truth.json"), "--detections", str(folder / f"{iou}.json"), "--iou", iou]
    main([*words, "--output", str(output)])
    figures = json.loads(output.read_text())
    prefix = "" if iou == "bbox" else "segm_"
    assert [round(figures[prefix + name], 3) for name in METRICS] == PUBLISHED[iou]
