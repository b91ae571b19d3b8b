"""The COCO evaluator: hand-computed metrics, equal engines, merging, diagnoses, malformed input."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from backbones.errors import UserError
from tools.evaluation import CocoEvaluator, format_table
from tools.evaluation.overlaps import iou, pairs
from tools.evaluation.shifts import category_hint, fitting_shift, some, unknown_hint
from tools.evaluation.summary import METRICS, area_of, class_summary, limits_of, metric_names, summarize
from tools.synthetic.coco_results import synthetic_results, write_synthetic

BOX = [10.0, 10.0, 40.0, 40.0]  # 1,600 square pixels: medium
ONE = pytest.approx(1.0, abs=1e-12)  # precision is tp / (tp + fp + 2e-16), so a perfect AP falls just short
ENGINES = ("hotcoco", "pycocotools")


def truth(*boxes: list[float], crowd: int = 0, images: int = 2, category: int = 3) -> dict[str, Any]:
    """Return ground truth with `boxes` on image 5, images 5, 6, ... of 100x100 pixels, and categories 3 and 7."""
    return {
        "images": [{"id": 5 + index, "width": 100, "height": 100} for index in range(images)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {
                "id": index,  # the first id is 0, which plain pycocotools never matches
                "image_id": 5,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for index, box in enumerate(boxes)
        ],
    }


def result(box: list[float], score: float = 0.9, image: int = 5, category: int = 3) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def score(gt: Any, dt: Any, engine: Any = "hotcoco", **options: Any) -> dict[str, Any]:
    evaluator = CocoEvaluator(gt, engine=engine, **options)
    evaluator.load(dt)
    return evaluator.compute()


def random_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a small data set with the difficult cases: crowds, ties, empty boxes, and images without objects."""
    rng = np.random.default_rng(seed)
    images = [{"id": int(key), "width": 200, "height": 160} for key in rng.choice(1000, 10, replace=False)]
    annotations: list[dict[str, Any]] = []
    for image in images[:7]:  # the last three have no ground truth
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = (float(v) for v in (*rng.integers(0, 80, 2), *rng.integers(2, 120, 2)))
            crowd = int(rng.random() < 0.15)
            annotations.append(
                {
                    "id": 3 * len(annotations),
                    "image_id": image["id"],
                    "category_id": int(rng.choice([1, 4])),
                    "bbox": [x, y, w, h],
                    "area": w * h * float(rng.choice([0.5, 1.0])),
                    "iscrowd": crowd,
                }
            )
    results = []
    for image in images[2:]:  # the first two have no detections
        own = [record for record in annotations if record["image_id"] == image["id"]]
        for _ in range(rng.choice([0, 3, 20, 350])):
            box, category = [float(v) for v in rng.integers(0, 90, 4)], int(rng.choice([1, 4, 9]))
            if own and rng.random() < 0.6:
                record = own[rng.integers(len(own))]
                box, category = [round(v + rng.normal(), 2) for v in record["bbox"]], record["category_id"]
            if rng.random() < 0.05:
                box[2] = 0.0
            tied, free = rng.integers(0, 8) / 8, rng.random()
            results.append(result(box, float(tied if seed % 2 else free), image["id"], category))
    categories = [{"id": key, "name": f"c{key}"} for key in (9, 1, 4)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


@pytest.mark.parametrize("engine", ENGINES)
def test_perfect_detection(engine: str) -> None:
    figures = score(truth(BOX), [result(BOX)], engine)
    assert [figures[name] for name in METRICS] == [ONE, ONE, ONE, None, ONE, None, 1.0, 1.0, 1.0, None, 1.0, None]
    assert figures["images"] == 2 and figures["boxes"] == 1 and figures["detections"] == 1
    assert figures["reasons"]["APs"] == "no ground-truth object has an area below 32^2 px"
    assert figures["per_class"] == {
        "cat": {"id": 3, "AP": ONE, "AP50": ONE, "images": 1, "boxes": 1},
        "dog": {"id": 7, "AP": None, "AP50": None, "images": 0, "boxes": 0},
    }


def test_classes_of_the_same_name_are_told_apart_by_their_ids() -> None:
    ground = truth(BOX)
    for record in ground["categories"]:
        record["name"] = "cat"
    classes = score(ground, [result(BOX)])["per_class"]
    assert {name: entry["boxes"] for name, entry in classes.items()} == {"cat (id 3)": 1, "cat (id 7)": 0}


@pytest.mark.parametrize("engine", ENGINES)
def test_hand_computed(engine: str) -> None:
    """Box of width 40 against 32 of its columns: IoU 32/40 = 0.8, a match at .50 ... .80, 7 of 10 thresholds.

    One of two objects is found by the first detection: precision 1 on recall points 0 ... 0.50, 51 of 101.
    """
    figures = score(truth(BOX, [60, 60, 40, 40]), [result([10, 10, 32, 40])], engine)
    assert figures["AP50"] == pytest.approx(51 / 101)
    assert figures["AP"] == pytest.approx(0.7 * 51 / 101)
    assert figures["AR100"] == pytest.approx(0.7 * 0.5)
    assert "LVIS" not in format_table(figures) and "cat" not in format_table(figures)
    assert "cat" in format_table(figures, per_class=True)
    assert format_table({**figures, "LVIS_APr": 0.25}).splitlines()[3] == "LVIS: APr 25.0"


@pytest.mark.parametrize("seed", range(24))
def test_engines_agree_bit_for_bit(seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gt, dt = random_set(seed)
    gt_path, dt_path = tmp_path / "gt.json", tmp_path / "dt.json"
    gt_path.write_text(json.dumps(gt))
    dt_path.write_text(json.dumps(dt))
    reference = score(copy.deepcopy(gt), dt, "pycocotools")
    assert score(gt, dt) == reference
    assert score(gt_path, dt_path) == reference
    assert capfd.readouterr() == ("", "")


def test_metrics_equal_those_that_pycocotools_prints() -> None:
    """The metrics equal those of pycocotools' `summarize` exactly, with -1 for None."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    gt, results = synthetic_results(30, 2000, seed=4)
    coco = COCO()
    coco.dataset = copy.deepcopy(gt)
    coco.createIndex()
    matching = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
    matching.evaluate()
    matching.accumulate()
    matching.summarize()
    figures = score(gt, results)
    assert [figures[name] for name in METRICS] == matching.stats.tolist()


def test_engines_agree_on_a_larger_set(tmp_path: Path) -> None:
    gt, dt = write_synthetic(tmp_path, 60, 4000, seed=1)
    figures = score(gt, dt)
    assert figures == score(gt, dt, "pycocotools")
    assert 0.2 < figures["AP"] < 0.8 and not figures["warnings"]


def test_large_files_are_read_by_hotcoco(tmp_path: Path) -> None:
    gt, dt = write_synthetic(tmp_path, 10, 200, seed=1)
    evaluator = CocoEvaluator(gt)
    evaluator.load(dt)
    assert evaluator._native is not None and evaluator._engine._truth is None  # type: ignore[attr-defined]
    assert len(evaluator.detections()) == 200


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("as_file", [False, True])
def test_missing_area_and_iscrowd(engine: str, as_file: bool, tmp_path: Path) -> None:
    gt = truth(BOX, [60, 60, 40, 40])
    for record in gt["annotations"]:
        del record["area"], record["iscrowd"]
    # A triangle: half of its 40x40 box, 800 square pixels, so COCO's "small".
    gt["annotations"][0]["segmentation"] = [[10, 10, 50, 10, 10, 50]]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(gt))
    figures = score(path if as_file else gt, [result(BOX)], engine)
    assert figures["APs"] == ONE and figures["APm"] == 0.0


@pytest.mark.parametrize("engine", ENGINES)
def test_image_ids_select(engine: str) -> None:
    gt = truth(BOX, images=3)
    figures = score(gt, [result(BOX), result(BOX, image=6)], engine, image_ids=[7, 5])
    assert (figures["AP"], figures["images"], figures["detections"]) == (ONE, 2, 1)
    assert score(gt, [result(BOX)], engine, image_ids=[])["AP"] is None
    with pytest.raises(UserError, match="image_ids: no image id is in the ground truth"):
        CocoEvaluator(gt, image_ids=[99])


def prediction(boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def test_update_maps_labels_and_boxes() -> None:
    evaluator = CocoEvaluator(truth(BOX, category=7), category_ids=[3, 7])
    evaluator.update([prediction([[10, 10, 50, 50]], [0.1], [2])], [{"image_id": 5}])
    evaluator.update([prediction([], [], [])], [{"image_id": np.array(6)}])
    assert evaluator.detections() == [result(BOX, 0.1, category=7)]
    assert evaluator.compute()["AP"] == ONE


def test_written_detections_score_the_same() -> None:
    gt, _ = synthetic_results(20, 0, seed=2)
    rng = np.random.default_rng(0)
    evaluator = CocoEvaluator(gt)
    for record in gt["annotations"]:
        if record["image_id"] not in evaluator._seen:
            x, y, w, h = record["bbox"]
            box = np.array([[x, y, x + w, y + h]], dtype=np.float32) + rng.normal(0, 2, (1, 4)).astype(np.float32)
            values = {"boxes": box, "scores": rng.random(1, dtype=np.float32), "labels": [record["category_id"]]}
            evaluator.update([values], [{"image_id": record["image_id"]}])
    again = json.loads(json.dumps(evaluator.detections()))
    assert evaluator.compute() == score(gt, again)


def test_labels_outside_the_map() -> None:
    evaluator = CocoEvaluator(truth(BOX), category_ids=[3, 7])
    for label in (0, 3):
        with pytest.raises(UserError, match=f"image 5: predicted labels are in {label}"):
            evaluator.update([prediction([BOX], [0.5], [label])], [{"image_id": 5}])


@pytest.mark.parametrize("processes", [1, 2, 3, 15])
def test_merge_is_the_same_for_any_number_of_processes(processes: int) -> None:
    """With 15 processes, some processes have no images."""
    gt, results = random_set(1)
    ids = [image["id"] for image in gt["images"]]

    def part(images: list[int]) -> CocoEvaluator:
        evaluator = CocoEvaluator(gt)
        for image in images:
            rows = [record for record in results if record["image_id"] == image]
            corners = [[*r["bbox"][:2], r["bbox"][0] + r["bbox"][2], r["bbox"][1] + r["bbox"][3]] for r in rows]
            scores, labels = [r["score"] for r in rows], [r["category_id"] for r in rows]
            evaluator.update([{"boxes": corners, "scores": scores, "labels": labels}], [{"image_id": image}])
        return evaluator

    parts = [part(ids[rank::processes]) for rank in range(processes)]
    parts[-1].merge([pickle.loads(pickle.dumps(each.state())) for each in parts])
    alone = part(ids)
    assert json.dumps(parts[-1].detections()) == json.dumps(alone.detections())
    assert json.dumps(parts[-1].compute()) == json.dumps(alone.compute())


def test_one_image_twice() -> None:
    evaluator = CocoEvaluator(truth(BOX))
    evaluator.update([prediction([], [], [])], [{"image_id": 5}])
    with pytest.raises(UserError, match="image 5 was evaluated 2 times"):
        evaluator.merge([evaluator.state(), evaluator.state()])
    evaluator.update([prediction([], [], [])], [{"image_id": 5}])
    with pytest.raises(UserError, match="image 5 was evaluated"):
        evaluator.compute()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("gt", "dt", "reason"),
    [
        (truth(BOX), [], "no detections"),
        (truth(BOX), [result(BOX, image=6)], "no image with ground truth has detections"),
        (truth(BOX), [result(BOX, category=7)], "no category id in common: detections have 7, the ground truth has 3"),
        (truth(BOX), [result(BOX, category=8)], "no category id in common: detections have 8"),
        (truth([50.0, 50, 40, 40]), [result([50, 50, 90, 90])], "look like x1, y1, x2, y2"),
        (truth(BOX), [result([0.1, 0.1, 0.4, 0.4])], "look normalised"),
        (truth(BOX), [result([30, 30, 40, 40])], r"below 0.5 \(the best is 0.14\)"),  # 400 / 2800
        (truth(BOX, crowd=1), [result(BOX)], "only crowd regions"),
        (truth(), [result(BOX)], "has no boxes"),
    ],
)
def test_diagnosis(engine: str, gt: Any, dt: Any, reason: str) -> None:
    figures = score(gt, dt, engine)
    assert not figures["AP"]
    with pytest.raises(ValueError, match=reason):
        raise ValueError(figures["reasons"]["AP"])
    assert figures["reasons"]["AP"] in format_table(figures)


def test_equal_scores_are_a_warning() -> None:
    figures = score(truth(BOX), [result(BOX, 0.5), result([1, 1, 5, 5], 0.5)])
    assert "all 2 scores are 0.5" in figures["warnings"][0]
    assert not score(truth(BOX), [result(BOX, 0.5), result([1, 1, 5, 5], 0.4)])["warnings"]


def many_classes(shift: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth with one object of each of the categories 1, 2, 3, 7, 8, 9, and detections of all of them.

    The category ids of the detections are shifted.
    """
    keys = [1, 2, 3, 7, 8, 9]
    gt = truth(*[[10.0 * index, 10.0, 8.0, 40.0] for index in range(6)])
    gt["categories"] = [{"id": key, "name": f"c{key}"} for key in keys]
    for record, key in zip(gt["annotations"], keys, strict=True):
        record["category_id"] = key
    found = [result(record["bbox"], 0.9, 5, record["category_id"] + shift) for record in gt["annotations"]]
    return gt, [{**record, "score": 0.9 - 0.1 * index} for index, record in enumerate(found)]


@pytest.mark.parametrize("from_file", [True, False], ids=["file", "list"])
@pytest.mark.parametrize("engine", ENGINES)
def test_shifted_categories_are_warned_of_and_explained(engine: str, from_file: bool, tmp_path: Path) -> None:
    gt, dt = many_classes(shift=-1)  # 0, 1, 2, 6, 7, 8: 0 and 6 are unknown
    path = tmp_path / "dt.json"
    path.write_text(json.dumps(dt))
    figures = score(gt, path if from_file else dt, engine)
    assert figures["AP"] == 0
    assert figures["reasons"]["AP"] == (
        "6 of 6 detections that overlap an object have another category id; adding 1 to each of their category ids "
        "would fit"
    )
    assert figures["warnings"] == [
        "2 of 6 detections have categories that the ground truth does not have (0, 6) and are ignored; adding 1 to "
        "each id would fit"
    ]
    assert score(*many_classes())["warnings"] == []


@pytest.mark.parametrize("first", [0, 1])
def test_positions_in_place_of_category_ids_are_explained(first: int) -> None:
    gt, dt = many_classes(shift=20)
    for record in (*gt["categories"], *gt["annotations"]):
        name = "id" if "name" in record else "category_id"
        record[name] += 20
    for position, record in enumerate(dt):
        record["category_id"] = position + first
    reason = score(gt, dt)["reasons"]["AP"]
    assert reason.endswith(f"their ids are positions in the list of categories, counted from {first}; write its ids")


def test_category_ids_are_explained_only_if_most_detections_of_several_categories_fit() -> None:
    def rows(*categories: int, width: float = 10) -> np.ndarray:
        return np.array([[1, 20 * index, 0, width, 10, 0, category] for index, category in enumerate(categories)])

    known = [5, 6, 7, 8]
    # IoUs of exactly 0.5 count: boxes of half the width.
    hint = category_hint(rows(5, 6, 7), rows(4, 5, 6, width=5), known)
    assert hint is not None and hint.endswith("adding 1 to each of their category ids would fit")
    # One category for all objects, which is that of the first object, is neither a shift nor a position.
    assert category_hint(rows(6, 6, 6), rows(1, 1, 1), known) is None
    # Two of five ids are positions, of two categories: too few.
    assert category_hint(rows(5, 6, 7, 8, 5), rows(0, 1, 7, 5, 6), known) is None


def test_shifted_image_ids_are_explained() -> None:
    with pytest.raises(UserError, match="adding 1 to each id would fit"):
        score(truth(BOX, images=3), [result(BOX, image=image) for image in (4, 5, 6)])
    with pytest.raises(UserError, match=r"6 of 7 image ids are not in the ground truth: 11, 12, 13, 14, 15, \.\.\."):
        score(truth(BOX), [result(BOX, image=image) for image in (5, *range(11, 17))])
    with pytest.raises(UserError, match=r"5 of 6 image ids are not in the ground truth: 11, 12, 13, 14, 15[^,]"):
        score(truth(BOX), [result(BOX, image=image) for image in (5, *range(11, 16))])


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "COCO results must be a JSON list, not an object"),
        ([result(BOX), without(result(BOX), "bbox")], "result 1: `bbox` is missing"),
        ([without(result(BOX), "score")], "result 0: `score` is missing"),
        ([without(result(BOX), "category_id")], "result 0: `category_id` is missing"),
        ([without(result(BOX), "image_id")], "result 0: `image_id` is missing"),
        ([result(BOX, float("nan"))], "result 0: score holds nan"),
        ([result([1, 2, 3, float("inf")])], "result 0: bbox holds inf"),
        ([result([1, 2, 3])], "result 0: `bbox` is"),
        ([1], "result 0: expected an object"),
        ([result(BOX), result(BOX, image=42)], "1 of 2 image ids are not in the ground truth: 42"),
        (
            [result(BOX, image=42), result(BOX, image=43)],
            "no image id is in the ground truth: given are 42, 43",
        ),
    ],
)
def test_malformed_results(engine: Any, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "dt.json"
    path.write_text(json.dumps(content))
    evaluator = CocoEvaluator(truth(BOX), engine=engine)
    with pytest.raises(UserError) as caught:
        evaluator.load(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def broken(**changes: Any) -> dict[str, Any]:
    gt = truth(BOX)
    gt["annotations"][0] |= changes
    return gt


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "COCO ground truth must be a JSON object, not a list"),
        (without(truth(BOX), "images"), "the list `images` is missing"),
        (without(truth(BOX), "annotations"), "the list `annotations` is missing"),
        (without(truth(BOX), "categories"), "the list `categories` is missing"),
        (broken(image_id=42), "annotations[0]: image_id 42 is not in `images`"),
        (broken(category_id=42), "annotations[0]: category_id 42 is not in `categories`"),
        (broken(bbox=None), "annotations[0]: `bbox` is None"),
        (broken(bbox=[0, 0, float("nan"), 1]), "annotations[0]: bbox holds nan"),
        (truth(BOX) | {"images": [{"id": 5}, {"id": 5}]}, "images[1]: id 5 is a duplicate"),
        (truth(BOX) | {"images": [{"id": "a"}]}, "images[0]: `id` is 'a', not an integer"),
    ],
)
def test_malformed_truth(engine: Any, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        CocoEvaluator(path, engine=engine)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_unreadable_files(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        CocoEvaluator(tmp_path / "absent.json", engine=engine)
    (tmp_path / "text.json").write_text("{oops")
    with pytest.raises(UserError, match="not a JSON file"):
        CocoEvaluator(tmp_path / "text.json", engine=engine)
    with pytest.raises(UserError, match="cannot be read"):
        CocoEvaluator(tmp_path, engine=engine)
    evaluator = CocoEvaluator(truth(BOX), engine=engine)
    with pytest.raises(UserError, match="no such file"):
        evaluator.load(tmp_path / "absent.json")


def test_nan_prediction_names_the_image() -> None:
    evaluator = CocoEvaluator(truth(BOX))
    with pytest.raises(UserError, match=r"image 5: .* NaN"):
        evaluator.update([prediction([BOX], [float("nan")], [3])], [{"image_id": 5}])


def test_unknown_engine() -> None:
    with pytest.raises(UserError, match="use hotcoco or pycocotools"):
        CocoEvaluator(truth(BOX), engine="magic")  # type: ignore[arg-type]


def test_extra_fields_of_results_change_nothing(tmp_path: Path) -> None:
    """A results file with its own areas or masks must not reach hotcoco unread."""
    gt, dt = random_set(3)
    for record in dt:
        record |= {"area": 5.0, "segmentation": [[0, 0, 1, 0, 1, 1]], "id": 7, "iscrowd": 1}
    path = tmp_path / "dt.json"
    path.write_text(json.dumps(dt))
    assert score(gt, path) == score(gt, path, "pycocotools") == score(*random_set(3))


def test_real_coco(capfd: pytest.CaptureFixture[str]) -> None:
    """Truth scored as its own detections is perfect, through either engine."""
    folder = ROOT.parent / "shared/data/coco-mini/annotations"
    files = sorted(folder.glob("instances_val*.json")) if folder.is_dir() else []
    if not files:
        pytest.skip("coco-mini is not here")
    content = json.loads(files[0].read_text())
    dt = [
        {"image_id": r["image_id"], "category_id": r["category_id"], "bbox": r["bbox"], "score": 0.5}
        for r in content["annotations"]
        if not r["iscrowd"]
    ]
    figures = score(files[0], dt)
    assert figures["AP50"] == ONE and figures == score(files[0], dt, "pycocotools")
    assert capfd.readouterr() == ("", "")


def full_image(count: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return an image with `count` objects of one class, and a perfect detection of each."""
    boxes = [[float(index % 20) * 5, float(index // 20) * 5, 4.0, 4.0] for index in range(count)]
    return truth(*boxes), [result(box, 0.5 + index / 1000) for index, box in enumerate(boxes)]


@pytest.mark.parametrize("engine", ENGINES)
def test_more_objects_than_detections_that_count_are_warned_of(engine: str) -> None:
    """100 of 300 objects are found: precision 1 on the recall points 0 ... 0.33, 34 of 101."""
    figures = score(*full_image(300), engine)
    assert figures["AP"] == pytest.approx(34 / 101) and figures["AR100"] == pytest.approx(1 / 3)
    assert figures["warnings"] == [
        "image 5 has 300 objects of class cat, but only the 100 best detections of an image and class count; raise "
        "--max-detections"
    ]
    assert score(*full_image(100), engine)["warnings"] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_another_limit_of_detections(engine: str) -> None:
    figures = score(*full_image(300), engine, max_detections=300)
    assert figures["AP"] == ONE and figures["AR300"] == 1 and figures["AR100"] == pytest.approx(1 / 3)
    assert figures["ARs"] == 1 and figures["warnings"] == [] and figures["max_detections"] == 300
    assert format_table(figures).splitlines()[1].split()[-1] == "AR300"
    few = score(*full_image(300), engine, max_detections=30)  # precision 1 on 0 ... 0.10, 11 of 101
    assert few["AP"] == pytest.approx(11 / 101) and few["AR30"] == few["AR100"] == pytest.approx(0.1)
    assert few["AR10"] == pytest.approx(1 / 30)


def test_a_reason_of_many_metrics_is_printed_once() -> None:
    table = format_table(score(truth(), [result(BOX)]))
    assert table.count("the ground truth of the scored images has no boxes") == 1
    assert "AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl: the ground truth" in table


def test_the_summary_of_classes_shows_the_most_frequent_and_the_worst() -> None:
    entries: dict[str, Any] = {
        f"c{k:02}": {"id": k, "AP": k / 100, "AP50": 0.5, "images": 1, "boxes": (k * 7) % 20} for k in range(20)
    }
    absent: Any = {"absent": {"id": 20, "AP": None, "AP50": None, "images": 0, "boxes": 0}}
    lines = class_summary(entries | absent).splitlines()
    # 7 k mod 20 = 19, 18, 17, 16, 15 for k = 17, 14, 11, 8, 5
    assert [line.split()[0] for line in lines[2:7]] == ["c17", "c14", "c11", "c08", "c05"]
    assert [line.split()[0] for line in lines[8:13]] == ["c00", "c01", "c02", "c03", "c04"]
    assert (lines[1], lines[7], lines[13]) == ("most frequent:", "worst:", "results.json has all 21 classes")
    few = class_summary(dict(list(entries.items())[:10]) | absent).splitlines()
    assert [line.split()[0] for line in few[1:]] == [f"c{k:02}" for k in range(10)]


@pytest.mark.parametrize("image_id", [5.5, float("nan"), "5", [5, 6]])
def test_image_ids_that_are_no_integers_are_refused(image_id: Any) -> None:
    with pytest.raises(UserError, match=r"`image_id` is .*, not an integer"):
        CocoEvaluator(truth(BOX)).update([prediction([], [], [])], [{"image_id": image_id}])


def test_labels_that_are_no_integers_are_refused() -> None:
    found = {"boxes": [[1, 1, 5, 5]], "scores": [0.5], "labels": [3.5]}
    with pytest.raises(UserError, match="image 5: a predicted label is no integer"):
        CocoEvaluator(truth(BOX)).update([found], [{"image_id": 5}])


def test_limits_and_names_of_metrics() -> None:
    assert [limits_of(most) for most in (1, 5, 100, 300)] == [[1], [1, 5], [1, 10, 100], [1, 10, 100, 300]]
    assert metric_names(10) == METRICS and metric_names(300) == (*METRICS, "AR300")
    assert [area_of(name) for name in ("AP", "AP75", "APs", "ARm", "ARl", "VOC07")] == [
        *("all", "all", "small", "medium", "large", "all")
    ]


def test_summary_by_hand() -> None:
    """Precision is the index of the threshold over 10, plus 0.01 for each area; one of two classes is undefined."""
    areas = 0.01 * np.arange(4)
    precision, recall = np.full((10, 101, 2, 4, 4), -1.0), np.full((10, 2, 4, 4), -1.0)
    precision[:, :, 0] = (np.arange(10)[:, None] / 10 + areas)[:, None, :, None]
    recall[:, 0] = (areas[:, None] + 0.1 * np.arange(4))[None]  # limits 1, 10, 100, 300
    figures = summarize(precision, recall, 300)
    expected = {"AP": 0.45, "AP50": 0.0, "AP75": 0.5, "APs": 0.46, "APm": 0.47, "APl": 0.48}
    expected |= {"AR1": 0.0, "AR10": 0.1, "AR100": 0.2, "ARs": 0.31, "ARm": 0.32, "ARl": 0.33, "AR300": 0.3}
    assert figures == pytest.approx(expected)
    precision[:] = -1
    assert summarize(precision, recall, 300)["AP"] is None


def test_the_shift_that_makes_ids_known() -> None:
    assert fitting_shift([0, 1, 2], {1, 2, 3}) == 1
    assert fitting_shift([10, 11, 12], {1, 2, 3}) == -9
    assert fitting_shift([1, 2], {2, 3}) == 1
    assert fitting_shift([9, 10], {1, 2}) is None  # two ids fit another shift than by one too easily
    assert fitting_shift([1, 2, 3], {*range(5, 20), -1, 0}) == 4
    assert fitting_shift([1, 2, 4], {1, 2, 3}) is None
    assert unknown_hint([10, 11, 12], {1, 2, 3}) == "; subtracting 9 from each id would fit"
    assert unknown_hint([1, 9], {1, 2, 3}) == ""
    assert [some(ids) for ids in ([7, 3, 3], [1, 2, 3], [4, 1, 2, 3], [])] == [
        *("3, 7", "1, 2, 3", "1, 2, 3, ...", "none")
    ]


def test_overlaps_by_hand() -> None:
    """10 x 10 boxes: moved by 5 in x and y they share 25 of 175; touching, empty and distant ones share nothing."""
    box = np.array([[0.0, 0, 10, 10]])
    others = np.array([[5.0, 5, 10, 10], [10, 0, 10, 10], [0, 0, 10, 10], [3, 3, 0, 0], [40, -40, 1, 1], [0, 0, 10, 5]])
    assert iou(box, others).tolist() == [pytest.approx([25 / 175, 0, 1, 0, 0, 0.5])]
    assert iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0]]
    detections = np.array([[1.0, 8], [2, 8], [1, 9], [1, 8]])
    objects = np.array([[1.0, 8], [3, 8], [1, 9], [1, 9]])
    found = [(left.tolist(), right.tolist()) for left, right in pairs(detections, objects, [0, 1])]
    assert found == [([[1, 8], [1, 8]], [[1, 8]]), ([[1, 9]], [[1, 9], [1, 9]])]


def test_tables_say_na_where_there_is_nothing_to_measure():
    """BOX is medium; small and large objects, and dogs, do not exist."""
    lines = format_table(score(truth(BOX), [result(BOX)]), per_class=True).splitlines()
    shown = dict(zip(lines[1].split(), lines[2].split(), strict=True))
    assert {name for name, text in shown.items() if text == "n/a"} == {"APs", "APl", "ARs", "ARl"}
    assert shown["AP"] == shown["APm"] == "100.0"
    dog = next(line.split() for line in lines if line.startswith("dog"))
    assert dog == ["dog", "n/a", "n/a", "0", "0"]
    empty = format_table(score(truth(), [])).splitlines()
    assert set(empty[2].split()) == {"n/a"}
