"""Files of tools whose formats are not read: the message names the file, the tool and the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_exports import save
from tool_exports import label_lines, pictures, text

from backbones.errors import UserError
from detection.data.folders import layout_of, open_split, read_annotations
from detection.data.layouts.other_tools import FORMATS
from detection.options import DetectionDataOptions
from tools import check_data, convert_data

LABELS = {"label": {"label_groups": [], "labels": [{"name": "cat", "parent": "", "attributes": []}], "attributes": []}}
SEGMENTS = [{"id": 1, "category_id": 1, "bbox": [10, 5, 20, 30], "area": 600, "iscrowd": 0}]
BOX = {"top": 5, "left": 10, "height": 30, "width": 20}
KITTI = "Car 0.00 0 -1.58 10.0 5.0 30.0 35.0 1.6 1.5 3.6 2.0 1.4 8.4 -1.56\n"
# Name of the tool, file, and the beginning of the content as the tool writes it.
FILES: list[tuple[str, str, Any]] = [
    (
        "datumaro's own",
        "annotations/train.json",
        {
            **{"dm_format_version": "1.0", "media_type": 2, "infos": {}, "categories": LABELS},
            "items": [{"id": "a", "annotations": [], "image": {"path": "a.jpg", "size": [40, 60]}}],
        },
    ),
    ("datumaro's own", "annotations/default.json", {"info": {}, "categories": LABELS, "items": []}),
    (
        "COCO's panoptic",
        "panoptic_val2017.json",
        {"images": [], "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": SEGMENTS}]},
    ),
    ("Labelbox's", "export.ndjson", {"data_row": {"external_id": "a.jpg"}, "media_attributes": {"height": 40}}),
    ("Labelbox's", "export.json", [{"ID": "x", "Labeled Data": "https://x/a.jpg", "Label": {"objects": []}}]),
    (
        "V7 Darwin's",
        "annotations/a.json",
        {"version": "2.0", "item": {"name": "a.jpg", "slots": [{"type": "image"}]}, "annotations": []},
    ),
    ("Dataloop's", "json/a.json", {"id": "x", "datasetId": "y", "filename": "/a.jpg", "annotations": []}),
    ("SageMaker's manifest", "output.manifest", {"source-ref": "s3://bucket/a.jpg", "pets": {"annotations": []}}),
    ("Scale's", "tasks.json", [{"task_id": "5", "params": {}, "response": {"annotations": [{**BOX, "label": "cat"}]}}]),
    ("VoTT's", "hash-asset.json", {"asset": {"name": "a.jpg"}, "regions": [{"tags": ["cat"], "boundingBox": BOX}]}),
    ("BDD100K's", "labels/det_train.json", [{"name": "a.jpg", "labels": [{"category": "car", "box2d": {"x1": 10}}]}]),
    ("FiftyOne's own", "samples.json", {"samples": [{"filepath": "data/a.jpg", "ground_truth": {"detections": []}}]}),
    (
        "Hasty's",
        "pets.json",
        {"export_format_version": "1.1", "label_classes": [], "images": [{"image_name": "a.jpg"}]},
    ),
    ("SuperAnnotate's", "a.jpg___objects.json", {"metadata": {"name": "a.jpg"}, "instances": [{"className": "cat"}]}),
    ("Encord's", "data.json", [{"label_hash": "x", "data_title": "a.jpg", "data_units": {}}]),
    ("Azure's", "train.jsonl", {"image_url": "azureml://x/a.jpg", "image_details": {"width": 60}, "label": []}),
    ("PaliGemma's", "_annotations.train.jsonl", {"image": "a.jpg", "prefix": "detect cat", "suffix": "<loc0100> cat"}),
    (
        "Label Studio's CSV",
        "project-1.csv",
        'annotation_id,annotator,id,image,label\n1,1,1,/data/a.jpg,"[{""x"": 1, ""rectanglelabels"": [""cat""]}]"\n',
    ),
    (
        "LabelMe 3's XML",
        "default/a.xml",
        "<annotation><filename>a.jpg</filename><object><name>cat</name><polygon><pt><x>1</x><y>2</y></pt></polygon>",
    ),
    ("MOT's or VisDrone's", "gt/gt.txt", "1,1,10,5,20,30,1,2,1.0\n"),
    ("MOT's or VisDrone's", "VisDrone2019-DET-train/annotations/a.txt", "10,5,20,30,1,4,0,0\n"),
    ("DOTA's", "labelTxt/a.txt", "imagesource:GoogleEarth\ngsd:0.1\n10 5 30 5 30 35 10 35 large-vehicle 0\n"),
    ("KITTI's", "label_2/a.txt", KITTI),
    ("WIDER FACE's", "wider_face_train_bbx_gt.txt", "0--Parade/a.jpg\n1\n10 5 20 30 0 0 0 0 0 0 \n"),
]


def written(root: Path, file: str, content: Any) -> Path:
    text(root / file, content if isinstance(content, str) else json.dumps(content))
    pictures(root / "images")
    return root


@pytest.mark.parametrize(("tool", "file", "content"), FILES, ids=[file for _, file, _ in FILES])
def test_a_format_that_is_not_read_is_named(tool: str, file: str, content: Any, tmp_path: Path):
    root = written(tmp_path, file, content)
    error = rf"^{root}/{file}: is in {tool} format, which is not read; \w"
    assert layout_of(root) is None
    with pytest.raises(UserError, match=error):
        open_split(root, "train")
    with pytest.raises(UserError, match=error):
        check_data.check(check_data.CheckOptions(data=str(root)))
    with pytest.raises(UserError, match=error):
        read_annotations(DetectionDataOptions(annotations=str(root / file), images=str(root / "images")), "train")
    with pytest.raises(UserError, match=error):
        convert_data.main(["--data", str(root), "--to", "coco", "--output", str(tmp_path / "new")])


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("train/pets.tfrecord", "holds TensorFlow's records"),
        ("data/train-00000-of-00001.parquet", "holds Parquet tables"),
    ],
)
def test_files_that_hold_images_too_are_named_where_no_image_is(file: str, words: str, tmp_path: Path):
    text(tmp_path / file, "PAR1")
    with pytest.raises(UserError, match=rf"{file}: {words}, which are not read; \w"):
        open_split(tmp_path, "train")
    with pytest.raises(UserError, match=rf"{file}: {words}"):
        check_data.check(check_data.CheckOptions(data=str(tmp_path)))
    pictures(tmp_path / "images")
    with pytest.raises(UserError, match="unknown layout"):
        open_split(tmp_path, "train")


def test_label_maps_beside_a_file_of_another_tool_are_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / "set"
    pictures(root / "images")
    for name in ("a", "b"):
        save(root / "masks" / f"{name}.png", np.ones((40, 60), np.uint8))
    text(
        root / "labels" / "det_train.json", json.dumps([{"name": "a.jpg", "labels": [{"category": "x", "box2d": {}}]}])
    )
    text(root / "classes.txt", "sky\nsea\n")
    convert_data.main(["--data", str(root), "--to", "coco", "--output", str(tmp_path / "new")])
    assert "train: 2 images" in capsys.readouterr().out


def test_every_format_has_a_file():
    assert {f"{tool} format" for tool, _, _ in FILES} == {each.title for each in FORMATS}


def test_labels_of_yolo_without_class_names_are_said_to_lack_them(tmp_path: Path):
    for stem in ("a", "b"):
        text(tmp_path / "labels" / f"{stem}.txt", label_lines(f"{stem}.{'jpg' if stem == 'a' else 'png'}"))
    pictures(tmp_path / "images")
    lacks = r"YOLO's images/SPLIT, labels/SPLIT and data.yaml or classes.txt \(lacks data.yaml or classes.txt\)"
    with pytest.raises(UserError, match=rf"unknown layout; expected {lacks}"):
        open_split(tmp_path, "train")
    with pytest.raises(UserError, match=rf"holds boxes in YOLO's layout .* in an unknown layout; expected {lacks}"):
        check_data.check(check_data.CheckOptions(data=str(tmp_path)))
