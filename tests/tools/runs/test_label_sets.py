"""The predictions of runs with several classes an image, and their mAP on resampled images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from run_folders import write_run

from backbones.errors import UserError
from classification.multi_label import LabelSets, join_names, label_sets_csv, split_names
from tools.runs.folder import RunFolder
from tools.runs.label_sets import LabelSetPredictions
from tools.runs.scores import read_score

# A class may have the name of another column. The last image could not be read.
ROWS = """image,classes,predicted,sea,image
1.png,sea;image,sea,0.9,0.2
2.png,,,0.6,0.1
3.png,sea,,0.5,0.8
4.png,sea,,,
"""


def written(folder: Path, text: str, images: int = 4) -> RunFolder:
    run = write_run(folder, {"test_crops": "center"}, {"mAP": 0.5, "images": images, "per_class": {"sea": {}}})
    (run / "predictions.csv").write_text(text)
    return RunFolder.read(run)


def test_the_map_counts_each_image_as_often_as_its_weight(tmp_path: Path):
    score = read_score(written(tmp_path, ROWS))
    assert score.size == 4
    # sea: right at ranks 1, 3, 4, so (1 + 2/3 + 3/4) / 3; image: right at rank 2, so 1/2.
    assert score.score(np.ones(4)) == pytest.approx(((1 + 2 / 3 + 3 / 4) / 3 + 1 / 2) / 2)
    # Image 1 twice and image 2: sea is perfect; image has both its images at the first score.
    assert score.score(np.array([2, 1, 0, 0])) == 1
    assert np.isnan(score.score(np.array([0, 5, 0, 0])))


def test_names_of_classes_with_semicolons_quotes_and_spaces_are_read_back(tmp_path: Path):
    classes, labels = ("a;b", "a", 'b "c"', " d"), np.array([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]]) > 0
    rows = {"label": labels, "score": labels / 2 + 0.2, "read": np.ones(3, bool)}
    text = label_sets_csv(rows, ["1.png", "2.png", "3.png"], classes, np.full(4, 0.5))
    found = LabelSetPredictions.read(written(tmp_path, text, images=3))
    assert found.classes == classes and (found.labels == labels).all()
    for names in ([], ["a"], ["a;b", "a"], ['"', "b\nc", "d\r"]):
        assert split_names(join_names(names)) == names


def test_tiny_scores_of_a_rare_class_give_the_map_of_the_evaluation(tmp_path: Path):
    scores = np.array([[0.9, 3e-6], [0.1, 2e-6], [0.6, 1e-6], [0.3, 1 / 3]], np.float32)
    labels = np.array([[1, 1], [0, 0], [1, 0], [0, 0]]) > 0
    metric = LabelSets(("common", "rare"))
    targets = {"label": torch.from_numpy(labels), "index": torch.arange(4)}
    metric.update(torch.from_numpy(scores), targets)
    rows = metric.rows()
    text = label_sets_csv(rows, [f"{number}.png" for number in range(4)], metric.classes, metric.thresholds(rows))
    # rare: right at rank 2 of 4, so 1/2. With four decimals, three images would share the last rank: 1/4.
    assert read_score(written(tmp_path, text)).whole == metric.compute()["mAP"] == 3 / 4


@pytest.mark.parametrize(
    ("text", "images", "said"),
    [
        (ROWS.replace("sea;image", "sea;sky"), 4, "is not a file of predictions .*sea;sky names a class that is no"),
        (ROWS.replace("0.9", "much"), 4, "is not a file of predictions"),
        (ROWS.replace("1.png,sea;image,sea,0.9,0.2", "1.png"), 4, "is not a file of predictions"),
        (ROWS.replace(",0.5,0.8", ",0.5"), 4, "is not a file of predictions"),
        (ROWS, 5, "holds 4 images, but results.json has 5"),
    ],
)
def test_damaged_files_take_one_line(tmp_path: Path, text: str, images: int, said: str):
    with pytest.raises(UserError, match=rf"predictions\.csv: {said}.*evaluate again with --eval-only"):
        read_score(written(tmp_path, text, images))
