"""Images that cannot be read: replaced in training by a rule, missed in evaluation, warned of once, listed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CocoFolder

from backbones.common.loading import loader
from backbones.errors import UserError
from classification.data.folders import ClassFolder, list_classes
from classification.data.items import collate
from classification.data.opening import open_source
from classification.metrics import TopK, predictions_csv
from detection.data.annotations import CocoAnnotations
from detection.data.dataset import CocoDetection
from detection.transforms import Augment
from segmentation.data.coco import CocoLabels
from segmentation.data.dataset import Segmentation
from segmentation.transforms import Augment as LabelAugment
from tools.engine.bad_images import BadImages
from tools.processes.batches import TrainBatches

IMAGES = 12  # of each split of the class folders
BAD = (1, 4, 5, 9)  # places of those that cannot be read, once they are broken


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Class folders of two classes, whose images tell their number by their grey."""
    for split in ("train", "val"):
        for number in range(IMAGES):
            folder = tmp_path / "set" / split / ("cat" if number < IMAGES // 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{number:02d}.png"), np.full((8, 8, 3), 20 * number, np.uint8))
    return tmp_path / "set"


def break_images(root: Path, split: str = "train") -> list[str]:
    """Cut some files short, empty one and delete one; their paths."""
    paths = sorted((root / split).rglob("*.png"))
    bad = [paths[place] for place in BAD]
    for path in bad[:2]:
        path.write_bytes(path.read_bytes()[:40])
    bad[2].write_bytes(b"")
    bad[3].unlink()
    return sorted(map(str, bad))


def whole(root: Path, folder: Path, *, seed: int = 0, split: str = "train") -> Any:
    """The images of a split; to be taken before they are broken, as a deleted file would not be listed."""
    folder.mkdir(exist_ok=True)
    return BadImages(folder, skip=True, seed=seed).replacing(
        ClassFolder(list_classes(root / split), None, in_channels=3)
    )


def places(items: Iterable[Any]) -> list[int]:
    """Return the indices of the images that were loaded."""
    return [int(target["index"]) for _, target in items]


def test_the_replacement_is_a_function_of_seed_epoch_and_place(classes: Path, tmp_path: Path):
    data, other = (whole(classes, tmp_path / "run", seed=seed) for seed in (0, 1))
    bad = break_images(classes)
    keys = [(epoch, place) for epoch in range(3) for place in range(IMAGES)]
    came = places(data[key] for key in keys)
    assert all(place not in BAD for place in came)
    assert [place for (_, place), new in zip(keys, came) if new != place] == list(BAD) * 3
    assert places(data[key] for key in reversed(keys)) == came[::-1]
    assert places(other[key] for key in keys) != came
    assert came[:IMAGES] != came[IMAGES : 2 * IMAGES]
    assert data.bad.files() == bad


@pytest.mark.parametrize("workers", [1, 3])
def test_loader_workers_choose_the_same(classes: Path, tmp_path: Path, workers: int):
    data = whole(classes, tmp_path / "run")
    break_images(classes)
    batches = TrainBatches(np.zeros(IMAGES, int), 4, seed=3)
    expected = [places(data[key] for key in batch) for batch in batches]
    loaded = loader(data, workers=workers, collate=collate, batch_sampler=batches)
    assert [batch[1]["index"].tolist() for batch in loaded] == expected


def test_ranks_and_a_resumed_run_choose_the_same(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = whole(classes, tmp_path / "run")
    break_images(classes)

    def steps(first: int = 0) -> list[list[int]]:
        batches = TrainBatches(np.zeros(IMAGES, int), 4, seed=3)
        batches.seek(1, first)
        return [places(data[key] for key in batch) for batch in batches]

    alone = steps()
    assert steps(first=2) == alone[2:]
    monkeypatch.setenv("WORLD_SIZE", "2")
    ranks = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        ranks.append(steps())
    assert [a + b for a, b in zip(*ranks)] == alone


def test_each_image_is_warned_of_once_by_all_processes(
    classes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    data = whole(classes, tmp_path / "run")
    bad = break_images(classes)
    loaded = loader(data, workers=2, collate=collate, batch_sampler=[[(e, p) for p in range(IMAGES)] for e in range(4)])
    assert len([*loaded, *loaded]) == 8
    warnings = capfd.readouterr().err.splitlines()
    assert sorted(line.split(": ")[1] for line in warnings if line.startswith("warning: ")) == bad
    again = BadImages(tmp_path / "run", skip=True, seed=0)  # as a resumed run has it
    assert again.listed() == {"bad_images": 4, "bad_image_files": bad}


def test_a_set_without_a_readable_image_is_an_error(classes: Path, tmp_path: Path):
    data = whole(classes, tmp_path / "run")
    for path in (classes / "train").rglob("*.png"):
        path.write_bytes(b"none")
    with pytest.raises(UserError, match=r"does not decode, and neither do the 100 images that were tried instead"):
        data[(0, 0)]


def test_evaluation_leaves_them_out_and_whole_batches_of_them(classes: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    bad = BadImages(tmp_path / "run", skip=True, seed=0)
    data = ClassFolder(list_classes(classes / "train"), None, in_channels=3)
    break_images(classes)
    sampler = [[first, first + 1] for first in range(0, IMAGES, 2)]
    batches = bad.evaluation_loader(data, workers=0, collate=collate, batch_sampler=sampler)
    assert [target["index"].tolist() for _, target in batches] == [[0], [2, 3], [6, 7], [8], [10, 11]]


def test_without_skip_they_are_errors_and_nothing_is_recorded(classes: Path, tmp_path: Path):
    bad = BadImages(tmp_path, skip=False, seed=0)
    data = ClassFolder(list_classes(classes / "train"), None, in_channels=3)
    break_images(classes)
    with pytest.raises(UserError, match=r"01\.png: does not decode"):
        bad.replacing(data)[1]
    assert bad.counted() == bad.listed() == {}


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_other_errors_stay_errors(coco: CocoFolder, tmp_path: Path, task: str):
    """A size that differs from the annotations' is no bad image: its boxes would be wrong as well."""
    for annotation in coco.data["annotations"]:
        annotation["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    coco.write()
    cv2.imwrite(str(coco.images() / "007.jpg"), np.zeros((30, 60, 3), np.uint8))
    (coco.images() / "009.jpg").unlink()
    where = coco.annotations(), coco.images()
    data: Any = (
        CocoDetection(CocoAnnotations.read(*where, absent_images="keep"), Augment("eval"))
        if task == "detection"
        else Segmentation(CocoLabels(*where), LabelAugment("eval"))
    )
    skipping = BadImages(tmp_path, skip=True, seed=0).omitting(data)
    assert skipping[0] is not None and skipping[2] is None
    with pytest.raises(UserError, match=r"007\.jpg: is 60x30 pixels, but the annotations say 60x40"):
        skipping[1]


def test_unread_images_count_as_wrong_in_classification():
    """Four images, of which two came, one of them right: top-1 is 1 of 4; the likelihood is that of the two."""
    counted = TopK(("cat", "dog"), expected=(np.array([3, 5, 6, 8]), np.array([0, 1, 1, 0])))
    torch = pytest.importorskip("torch")
    scores = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    counted.update(scores, {"label": torch.tensor([0, 1]), "index": torch.tensor([3, 6])})
    figures = counted.compute()
    assert figures["top1"] == 0.25 and figures["images"] == 4
    assert figures["nll"] == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2)
    assert {name: entry["recall"] for name, entry in figures["per_class"].items()} == {"cat": 0.5, "dog": 0}
    lines = list(csv.reader(predictions_csv(counted.rows(), ["a", "b", "c", "d"], counted.classes).splitlines()))
    assert [line[2] for line in lines[1:]] == ["cat", "", "cat", ""]
    assert TopK(("cat", "dog"), expected=counted.expected).compute()["top1"] == 0


def test_tar_shards_are_refused(tmp_path: Path):
    (tmp_path / "train-000000.tar").touch()
    with pytest.raises(UserError, match="--on-bad-image skip: cannot be used with tar shards"):
        bad = BadImages(tmp_path, skip=True, seed=0)
        open_source(str(tmp_path), in_channels=None, splits=("train", "val"), guard=bad)


QUICK = ("--epochs", 1, "--batch-size", 4, "--workers", 0, "--weights", "none")
SMALL = ("--recipe", "shapes", "--min-size", 64, "--max-size", 64)


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def logged(run: Path) -> list[int]:
    """Return the counts of the log at each evaluation."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["bad_images"] for line in lines if "epoch" in line]


def test_a_detection_run_that_an_image_stopped_goes_on_without_it(coco: CocoFolder, script, tmp_path: Path):
    coco.write()
    cut, gone = coco.images("train") / "007.jpg", coco.images("val") / "005.jpg"
    cut.write_bytes(cut.read_bytes()[:400])
    words = ("--data", coco.root, *SMALL, "--fpn-channels", 32, *QUICK, "--batch-size", 2, "--eval-every", 1)
    stopped = script("train_det.py", *words, "--output", "run", cwd=tmp_path)
    assert stopped.returncode == 2 and "007.jpg: does not decode" in stopped.stderr
    gone.unlink()
    words = ("--resume", "--output", "run", "--on-bad-image", "skip", "--workers", 2)
    done = script("train_det.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [done.stderr.count(f"warning: {path}: ") for path in (cut, gone)] == [1, 1]
    found = results(tmp_path / "run")
    assert found["bad_image_files"] == sorted(map(str, (cut, gone))) and logged(tmp_path / "run") == [2]
    assert found["images"] == 4 and found["boxes"] == 3  # those of the image that is gone count, as missed ones
    detections = json.loads((tmp_path / "run" / "detections.json").read_text())
    assert 5 not in {detection["image_id"] for detection in detections}


def test_a_classification_run_counts_them_as_wrong(classes: Path, script, tmp_path: Path):
    bad = break_images(classes, "val")
    words = ("--data", classes, "--backbone", "timm/test_resnet", "--recipe", "shapes", *QUICK, "--crop-size", 32)
    done = script("train_cls.py", *words, "--on-bad-image", "skip", "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "run")
    listed = [path for path in bad if Path(path).exists()]  # a file that was gone before was never in the set
    assert found["bad_image_files"] == listed and found["images"] == IMAGES - 1 and logged(tmp_path / "run") == [3]
    rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").read_text().splitlines()))
    unread = [row["image"] for row in rows if not row["predicted"]]
    assert unread == [str(Path(path).relative_to(classes / "val")) for path in listed]
    assert found["top1"] * len(rows) == sum(row["class"] == row["predicted"] for row in rows)


def test_a_segmentation_run_leaves_them_out(script, tmp_path: Path):
    root = tmp_path / "maps"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), pixels)
            cv2.imwrite(str(root / "labels" / split / f"{number}.png"), pixels[..., 0] // 128)
        (root / "images" / split / "2.png").write_bytes(b"none")
    (root / "classes.txt").write_text("sky\nroad\n")
    words = ("--data", root, "--backbone", "timm/test_resnet", "--recipe", "shapes", *QUICK, "--crop-size", 32)
    words += ("--class-weights", "median", "--on-bad-image", "skip")
    done = script("train_seg.py", *words, "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "run")
    assert found["bad_image_files"] == [str(root / "images" / split / "2.png") for split in ("train", "val")]
    assert found["images"] == 3 and found["pixels"] == 3 * 40 * 50 and logged(tmp_path / "run") == [2]
