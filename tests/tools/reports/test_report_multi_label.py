"""Reports on runs with several classes an image, and on data that has no folder for the validation split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import write_run

from backbones.errors import UserError
from tools.exports.model_card import _metrics
from tools.reports.chapters import facts
from tools.reports.classification import metrics_section
from tools.reports.training import _metrics_chart
from tools.runs.classification import ClassPredictions, image_root
from tools.runs.folder import RunFolder

RESULTS = {
    "mAP": 0.75,
    "macro_f1": 0.5,
    "micro_f1": 0.6,
    "exact_match": 0.25,
    "images": 4,
    "per_class": {
        "sea": {"AP": 0.75, "F1": 0.5, "threshold": 0.3, "images": 2},
        "sun": {"AP": None, "F1": None, "threshold": 0.5, "images": 0},
    },
}


def test_several_classes_an_image_have_a_table_of_metrics_and_one_of_classes(tmp_path: Path):
    run = RunFolder.read(write_run(tmp_path / "run", {"test_crops": "center"}, RESULTS))
    metrics, classes = metrics_section([run]).blocks
    assert [row[0].text for row in metrics.rows] == ["mAP", "macro_f1", "micro_f1", "exact_match"]
    assert [cell.text for cell in classes.rows[0]][:2] == ["sea", "2"] and classes.rows[0][2].key == 0.75
    assert classes.rows[1][2].key is None
    (run.folder / "predictions.csv").write_text("image,classes,predicted,sea,sun\n")
    with pytest.raises(UserError, match=r"predictions\.csv: holds several classes an image; chapters on single"):
        ClassPredictions.read(run)


def test_the_top_and_the_curves_of_a_report_show_the_map(tmp_path: Path):
    runs = [RunFolder.read(write_run(tmp_path / name, {"test_crops": "center"}, RESULTS)) for name in ("one", "two")]
    shown = {"mAP": "75.0 %", "macro_f1": "50.0 %", "micro_f1": "60.0 %", "exact_match": "25.0 %", "images": "4"}
    assert dict(facts(runs[:1])) == shown
    assert facts(runs) == [("mAP one", "75.0 %"), ("mAP two", "75.0 %")]
    for run in runs:
        lines = ({"step": n, "time": n, "epoch": n, "mAP": n / 4, "macro_f1": n / 8} for n in (1, 2))
        (run.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    runs = [RunFolder.read(run.folder) for run in runs]
    for chosen, names in ((runs[:1], ["mAP", "macro_f1"]), (runs, ["one", "two"])):
        chart = _metrics_chart(chosen)
        assert chart is not None and [entry.name for entry in chart.legend] == names


@pytest.mark.parametrize(
    ("data", "name", "folder"),
    [("labels.csv", "photos/1.png", "."), (".", "valid/1.png", "."), (".", "1.png", "valid"), (".", "a/1.png", ".")],
    ids=["CSV file", "CSV file in the folder", "folder of another name", "class folders"],
)
def test_images_are_found_where_their_layout_has_them(tmp_path: Path, data: str, name: str, folder: str):
    root = tmp_path / "data"
    path = root / folder / name
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    (root / "labels.csv").write_text("image,label\n")
    config = {"test_crops": "center", "data": str(root / data)}
    run = RunFolder.read(write_run(tmp_path / "run", config, {"images": 1, "per_class": {"a": {"recall": 1}}}))
    (run.folder / "predictions.csv").write_text(f"image,class,predicted,confidence,rank,loss\n{name},a,a,1,0,0\n")
    names = ClassPredictions.read(run).names
    assert (image_root(run, names, None) or tmp_path).resolve() == (root / folder).resolve()


def test_the_model_card_has_the_metrics_of_several_classes_an_image():
    assert _metrics("classification", RESULTS).splitlines()[2:] == [
        "| mAP | 0.75 |",
        "| macro_f1 | 0.5 |",
        "| micro_f1 | 0.6 |",
        "| exact_match | 0.25 |",
    ]
    assert "macro_f1" not in _metrics("classification", {"top1": 0.5, "macro_f1": 0.5})
