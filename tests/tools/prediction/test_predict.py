"""The prediction script as its users run it: folders, globs, videos, tiles and mistakes."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import size_of
from PIL import Image
from tolerances import written

import detection
import segmentation
from backbones.errors import UserError
from tools import predict
from tools.cli.parsing import parse
from tools.prediction.detection import DetectionPrediction
from tools.prediction.inputs import find_inputs
from tools.prediction.segmentation import SegmentationPrediction
from tools.prediction.settings import PredictionSettings

Call = Callable[..., subprocess.CompletedProcess[str]]


def write(path: Path, size: tuple[int, ...] = (48, 64, 3), top: int = 255, kind: Any = np.uint8) -> Path:
    """A picture of blocks of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, top, size, kind)
    assert cv2.imwrite(str(path), pixels)
    return path


def film(path: Path, frames: int = 6, code: str = "mp4v") -> Path:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10, (64, 48))
    for number in range(frames):
        picture = np.zeros((48, 64, 3), np.uint8)
        cv2.circle(picture, (10 + 8 * number, 24), 9, (40, 200, 90), -1)
        video.write(picture)
    video.release()
    return path


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def run(run_folder: Path, *words: Any, out: Path) -> Path:
    """The script in this process."""
    predict.main([*map(str, ("--run", run_folder, "--output", out, "--workers", 0, *words))])
    return out


def test_detections_of_a_folder(tiny_runs, small_shapes: Path, script: Call, tmp_path: Path):
    """With workers and defaults: COCO's ids by the files' names, the figures of the run's own evaluation."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in sorted((small_shapes / "val").iterdir()) + sorted((small_shapes / "train").iterdir())[:4]:
        (folder / path.name).write_bytes(path.read_bytes())
    done = script("predict.py", "--run", tiny_runs["det"], folder, "--score", 0.05, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10 images in" in done.stdout and "images/s; 0 inputs failed" in done.stdout
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.startswith("predict-")
    known, rows = read_json(out / "images.json"), read_json(out / "predictions.json")
    truth = read_json(small_shapes / "annotations" / "instances_val.json")
    assert known["categories"] == [{"id": c["id"], "name": c["name"]} for c in truth["categories"]]
    ids = {image["id"] for image in truth["images"]}
    assert ids < {image["id"] for image in known["images"]}
    found, before = (
        Counter((row["image_id"], row["category_id"]) for row in some if row["image_id"] in ids)
        for some in (rows, read_json(tiny_runs["det"] / "detections.json"))
    )
    # In 16 bits a score at the limit hangs on the batch that an image comes in.
    assert (found - before).total() + (before - found).total() <= 0.02 * before.total()
    assert len(list((out / "pictures").iterdir())) == 10
    assert size_of(next((out / "pictures").iterdir())) == (512, 512)
    again = script("predict.py", "--run", tiny_runs["det"], folder, "--output", out, cwd=tmp_path)
    assert again.returncode == 2
    assert "holds files already; name a new folder" in again.stderr


def test_score_and_classes(tiny_runs, small_shapes: Path, tmp_path: Path):
    words = ("--score", 0.1, "--classes", "circle, star", "--draw", "false", small_shapes / "val")
    out = run(tiny_runs["det"], *words, out=tmp_path / "o")
    categories = detection.load(tiny_runs["det"]).categories
    wanted = {categories.ids[categories.names.index(name)] for name in ("circle", "star")}
    rows = read_json(out / "predictions.json")
    assert {row["category_id"] for row in rows} <= wanted
    assert all(row["score"] >= 0.1 for row in rows)
    assert not (out / "pictures").exists()


def test_a_video_and_images_of_one_name(tiny_runs, tmp_path: Path):
    write(tmp_path / "a/x.png"), write(tmp_path / "b/x.jpg", (64, 48, 3))
    words = (tmp_path / "*/x.*", film(tmp_path / "clip.mp4"), "--score", 0)
    out = run(tiny_runs["det"], *words, out=tmp_path / "o")
    assert {p.name for p in (out / "pictures").iterdir()} == {"x.jpg", "x-2.jpg", "clip.mp4"}
    images = read_json(out / "images.json")["images"]
    assert [image["id"] for image in images] == [*range(1, 9)]
    assert [image.get("frame") for image in images] == [None, None, 0, 1, 2, 3, 4, 5]
    drawn = cv2.VideoCapture(str(out / "pictures/clip.mp4"))
    assert (drawn.get(cv2.CAP_PROP_FRAME_COUNT), drawn.get(cv2.CAP_PROP_FPS)) == (6, 10)
    assert drawn.read()[1].shape[:2] == (384, 512)
    assert int(drawn.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little") == b"VP90"  # browsers refuse MPEG-4 part 2


def test_label_maps(tiny_runs, tmp_path: Path):
    """Palette PNGs that a training could read: of class numbers, as large as the images."""
    from segmentation.data.classes import Classes
    from segmentation.data.labels import LabelCode, read_labels

    out = run(tiny_runs["seg"], write(tmp_path / "a.png"), film(tmp_path / "clip.mp4", 2), out=tmp_path / "o")
    classes = Classes.read(out / "classes.txt")
    labels = read_labels(out / "labels/a.png", LabelCode(classes), size=(48, 64))

    assert np.array_equal(labels, segmentation.load(tiny_runs["seg"])(tmp_path / "a.png").labels)
    with Image.open(out / "labels/clip/000001.png") as frame:
        assert frame.mode == "P"
    assert cv2.VideoCapture(str(out / "pictures/clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2
    tiled = run(tiny_runs["seg"], tmp_path / "a.png", "--tile", 32, "--draw", "false", out=tmp_path / "t")
    assert read_labels(tiled / "labels/a.png", LabelCode(classes), size=(48, 64)).shape == (48, 64)


def test_a_video_beside_a_folder_of_its_frames(tiny_runs, tmp_path: Path):
    """Neither's label maps take the other's place."""
    write(tmp_path / "in/clip/000001.png", (20, 30, 3)), film(tmp_path / "in/clip.mp4", 2)
    out = run(tiny_runs["seg"], tmp_path / "in", out=tmp_path / "o")
    assert size_of(out / "labels/clip/000001.png") == (30, 20)
    assert {p.name for p in (out / "labels/clip-1").iterdir()} == {"000000.png", "000001.png"}


def test_classes(tiny_runs, tmp_path: Path):
    folder = tiny_runs["cls"].parent / "pictures/val"
    out = run(tiny_runs["cls"], folder, film(tmp_path / "clip.mp4", 2), out=tmp_path / "o")
    with open(out / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(tiny_runs["cls"] / "predictions.csv", encoding="utf-8", newline="") as file:
        before = {Path(row["image"]).name: row["predicted"] for row in csv.DictReader(file) if "apple" in row["image"]}
    assert len(rows) == 8
    found = {Path(row["image"]).name: row["class_1"] for row in rows if "apple" in row["image"]}
    assert found == before
    assert sum(float(rows[0][f"probability_{n}"]) for n in (1, 2)) == pytest.approx(
        1, abs=2 * written(4)
    )  # two numbers of four decimals
    assert (out / "pictures/pear/0.jpg").is_file()
    assert rows[-1]["image"].endswith("clip.mp4#1")
    alone = run(tiny_runs["cls"], folder, "--classes", "pear", out=tmp_path / "p")
    assert "apple," not in (alone / "predictions.csv").read_text()


def test_tiles_of_a_large_image(tiny_runs, tmp_path: Path):
    """Boxes lie in the image's own pixels, beyond the first tile as well."""
    path = write(tmp_path / "large.png", (150, 260, 3))
    out = run(tiny_runs["det"], path, "--tile", "auto", "--score", 0.05, out=tmp_path / "o")
    rows = read_json(out / "predictions.json")
    boxes = np.array([row["bbox"] for row in rows])
    assert len(rows) > 100  # more than the net gives of a single image
    assert (boxes[:, :2] + boxes[:, 2:]).max(0).tolist() <= [260.01, 150.01]
    assert boxes[:, 0].max() > 160


def test_odd_images_are_handled(tiny_runs, tmp_path: Path):
    """Alpha, 16 bits, grey, one pixel wide or in all."""
    folder = tmp_path / "odd"
    write(folder / "alpha.png", (48, 64, 4)), write(folder / "grey.png", (48, 64))
    write(folder / "deep.png", (48, 64, 3), 65535, np.uint16), write(folder / "deep.tif", (48, 64), 65535, np.uint16)
    write(folder / "wide.png", (1, 12, 3)), write(folder / "high.png", (12, 1, 3)), write(folder / "dot.png", (1, 1, 3))
    for task in ("det", "seg", "cls"):
        out = run(tiny_runs[task], folder, out=tmp_path / task)
        summary = read_json(out / "summary.json")
        assert (summary["pictures"], summary["failed"]) == (7, [])
        assert len(list((out / "pictures").iterdir())) == 7


def test_bad_inputs_are_named_and_the_others_predicted(tiny_runs, script: Call, tmp_path: Path):
    good = write(tmp_path / "good.jpg")
    (tmp_path / "torn.jpg").write_bytes(good.read_bytes()[:300])
    (tmp_path / "none.mp4").write_bytes(b"no video" * 99)
    whole = film(tmp_path / "whole.webm", 60, code="VP80").read_bytes()
    (tmp_path / "torn.webm").write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "thin.png", (1, 4000, 3))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    words = (
        "pipe.jpg",
        "torn.jpg",
        "none.mp4",
        "thin.png",
        "notes.txt",
        "empty",
        "gone.jpg",
        "*.gif",
        "good.jpg",
        "torn.webm",
    )
    done = script("predict.py", "--run", tiny_runs["det"], "--output", "o", "--score", "0", *words, cwd=tmp_path)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for text in (
        "pipe.jpg: is a pipe or a device",
        "torn.jpg: does not decode",
        "none.mp4: cannot be decoded as a video",
        "thin.png: is 4000x1 pixels, so thin that its short side",
        "notes.txt: is not an image or video by its suffix",
        "empty: holds no images or videos, because it is empty",
        "gone.jpg: no such file or folder",
        "*.gif: matches no image or video",
        "torn.webm: only",
    ):
        assert sum(text in line for line in lines) == 1, text
    assert "9 inputs failed" in lines[-1]
    assert len(lines) == 10
    assert "Traceback" not in done.stderr
    summary = read_json(tmp_path / "o/summary.json")
    assert len(summary["failed"]) == 9
    assert summary["pictures"] > 1
    assert {p.name for p in (tmp_path / "o/pictures").iterdir()} == {"good.jpg", "torn-2.mp4"}


MISTAKES: dict[str, tuple[tuple[Any, ...], str]] = {
    "no input": ((), "no input: name images"),
    "no good input": (("gone.jpg",), "gone.jpg: no such file or folder"),
    "class": (("--classes", "circel"), "--classes circel: the model has no such class; choose among circle"),
    "score": (("--score", 2), "--score 2.0: must be between 0 and 1"),
    "tile": (("--tile", 3), "--tile 3: must be 16 or more"),
    "tile word": (("--tile", "big"), "--tile big: expected"),
    "option": (("--scores", 1), "scores"),
    "threads": (("--threads", -1), "--threads -1: must be above 0"),
    "device": (("--device", "gpu"), "device gpu: cannot be used here"),
    "device that holds nothing": (("--device", "meta"), "device meta: cannot be used here"),
    "two": (("--weights", "x.safetensors"), "name one of --run FOLDER, --weights FILE and --model FILE or NAME"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(tiny_runs, tmp_path: Path, monkeypatch, name: str):
    monkeypatch.chdir(tmp_path)
    words, text = MISTAKES[name]
    write(tmp_path / "a.jpg")
    inputs = () if "no" in name.split() else ("a.jpg",)
    with pytest.raises(UserError) as caught:
        run(tiny_runs["det"], *words, *inputs, out=tmp_path / "o")
    assert text in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_mistakes_in_what_predicts(tiny_runs, tmp_path: Path):
    image = write(tmp_path / "a.jpg")
    for folder, words, text in (
        (tmp_path, (), "is not a run folder"),
        (tmp_path / "gone", (), "no such run folder or weights file"),
        (tiny_runs["cls"], ("--tile", 64), "classifiers process an image as a whole"),
        (tiny_runs["seg"], ("--score", 0.5), "is for detectors, but"),
    ):
        with pytest.raises(UserError, match=text):
            run(folder, image, *words, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_an_image_whose_folder_cannot_be_written_is_a_mistake(tiny_runs, tmp_path: Path):
    with pytest.raises(UserError, match="--output /proc/o: cannot be created"):
        run(tiny_runs["det"], write(tmp_path / "a.jpg"), out=Path("/proc/o"))


def test_a_file_named_in_several_ways_is_one_input(tmp_path: Path, monkeypatch):
    path = write(tmp_path / "a/x.png")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "notes.txt").touch()
    found = find_inputs(["a/x.png", str(path), "a/../a/x.png", "a"], tmp_path)
    assert ([each.path for each in found.files], found.problems) == ([Path("a/x.png")], [])
    assert found.passed_over == {".txt": 1}
    path.unlink()
    assert "but 1 .txt; name another folder" in find_inputs(["a"], tmp_path).problems[0]


def test_words_and_options_are_told_apart():
    words = ["a.jpg", "--score", "0.5", "b.jpg", "--draw", "c.jpg", "--draw", "false", "--tile=16", "d"]
    options = parse(predict.PredictOptions, description="", argv=["--run", "r", *words, "--", "--e.jpg"])
    assert options.files.inputs == ["a.jpg", "b.jpg", "c.jpg", "d", "--e.jpg"]
    settings = options.settings
    assert (options.files.run, settings.score, settings.draw, settings.tile) == ("r", 0.5, False, 16)


def test_what_was_found_before_a_signal_is_kept(tiny_runs, tmp_path: Path, monkeypatch):
    """Results of the pictures so far, drawn ones too; the handler of before is back."""
    folder, found, before = tmp_path / "many", DetectionPrediction.predict, signal.getsignal(signal.SIGTERM)
    for number in range(5):
        write(folder / f"{number + 1}.png")

    def stop_at_the_third(self: Any, contents: Any) -> Any:
        if len(self.forms[0].images) == 2:
            signal.raise_signal(signal.SIGTERM)
        return found(self, contents)

    monkeypatch.setattr(DetectionPrediction, "predict", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt, match="interrupted: predicted 2 images, but"):
        run(tiny_runs["det"], folder, "--batch-size", 1, out=tmp_path / "o")
    assert [image["id"] for image in read_json(tmp_path / "o/images.json")["images"]] == [1, 2]
    assert {row["image_id"] for row in read_json(tmp_path / "o/predictions.json")} == {1, 2}
    assert sorted(p.name for p in (tmp_path / "o/pictures").iterdir()) == ["1.jpg", "2.jpg"]
    summary = read_json(tmp_path / "o/summary.json")
    assert (summary["pictures"], summary["interrupted"]) == (2, True)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_file_name_that_is_not_utf8(tiny_runs, tmp_path: Path):
    path = write(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    out = run(tiny_runs["cls"], path.parent, out=tmp_path / "o")
    assert "caf\\udce9.png," in (out / "predictions.csv").read_text(encoding="utf-8")


def test_background_keeps_its_colours_unless_it_is_named(tiny_runs, tmp_path: Path):
    net = segmentation.load(tiny_runs["seg"])
    names = ("background", *net.classes.names[1:])
    net.classes = dataclasses.replace(net.classes, names=names)
    everything = [*range(1, len(names))]
    assert SegmentationPrediction(net, PredictionSettings(), tmp_path).chosen == everything
    assert SegmentationPrediction(net, PredictionSettings(classes=",".join(names)), tmp_path).chosen == [0, *everything]
    net.classes = dataclasses.replace(net.classes, names=("sky", *names[1:]))
    assert SegmentationPrediction(net, PredictionSettings(), tmp_path).chosen == [0, *everything]


def test_samples_leave_the_background_as_it_is():
    from segmentation.data.classes import Classes
    from segmentation.draw import paint_labels

    image = np.full((2, 2, 3), 200, np.uint8)
    labels = np.array([[0, 1], [255, 0]])
    voc = Classes(("background", "cat"), ((0, 0, 0), (128, 0, 0)))
    found = paint_labels(image, labels, voc)
    assert (found[0, 0] == 200).all() and (found[1, 1] == 200).all()
    assert (found[0, 1] == (146, 50, 50)).all()  # a quarter of 200 and three quarters of the colour
    assert (found[1, 0] == 50).all()  # what does not count is black
    sky = Classes(("sky", "cat"), ((0, 0, 0), (128, 0, 0)))
    assert (paint_labels(image, labels, sky)[0, 0] == 50).all()


def test_detectors_read_no_arrays(tiny_runs: dict[str, Path], tmp_path: Path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((8, 8, 3), np.uint8))
    Image.new("RGB", (64, 64)).save(tmp_path / "y.png")
    words = ["--run", str(tiny_runs["det"]), str(tmp_path), "--output", str(tmp_path / "out"), "--workers", "0"]
    with pytest.raises(UserError, match="1 input failed, and the command predicted 1 image;"):
        predict.main(words)
    assert "x.npy: is an array, which detectors cannot read" in capsys.readouterr().err


def test_a_single_input_that_fails_is_one_line(tiny_runs: dict[str, Path], tmp_path: Path, capsys):
    words = ["--run", str(tiny_runs["det"]), "73", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"^camera 73: there is no such camera, or it is in use; cameras count from 0$"):
        predict.main(words)
    assert capsys.readouterr() == ("", "")
