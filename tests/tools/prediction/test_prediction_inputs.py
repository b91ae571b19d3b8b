"""Predictions on what is no local file, on some frames of a video, and in other forms than COCO's."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image

from backbones.errors import UserError
from tools import predict
from tools.prediction import inputs, remote
from tools.prediction.inputs import InputFile, count_images, find_inputs, stream


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a loopback server of a folder with an image, a text and a file that is cut short."""
    folder = tmp_path / "served"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(folder / "a b.png")
    (folder / "image").write_bytes((folder / "a b.png").read_bytes())  # without suffix
    (folder / "notes.txt").write_text("no image")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path != "/short.png":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"\x89PNG")
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_addresses_and_standard_input_are_predicted_in_all_forms(
    tiny_runs: dict[str, Path], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    content = (tmp_path / "served" / "image").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    addresses = [f"{server}/a%20b.png", f"{server}/image?size=full&x=[1]"]  # no pattern
    wrong = [f"{server}/gone.png", f"{server}/notes.txt", f"{server}/short.png"]
    out = tmp_path / "out"
    words = ["--run", tiny_runs["det"], "--save", "coco,csv,yolo,voc,crops", "--score", 0.05, "--workers", 0]
    with pytest.raises(UserError, match="3 inputs failed, and the command predicted 3 images"):
        predict.main([*map(str, (*words, "--output", out, *addresses, "-", *wrong))])
    errors = capsys.readouterr().err
    for line in (
        f"error: {wrong[0]}: cannot be downloaded (HTTP status 404); check the address",
        f"error: {wrong[1]}: is no image of a known format",
        f"error: {wrong[2]}: cannot be downloaded (",
    ):
        assert line in errors
    known = json.loads((out / "images.json").read_text())
    assert [image["file_name"] for image in known["images"]] == [*addresses, "-"]
    assert {path.name for path in (out / "pictures").iterdir()} == {"a b.jpg", "image.jpg", "stdin.jpg"}
    assert not (out / "download-0.png").exists()

    # All forms hold the same boxes: the three inputs are one image.
    rows = json.loads((out / "predictions.json").read_text())
    ids = [category["id"] for category in known["categories"]]
    names = [category["name"] for category in known["categories"]]
    first = [row for row in rows if row["image_id"] == 1]
    assert first and len(rows) == 3 * len(first)
    with (out / "predictions.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["image"] == "-"]
    yolo = [line.split() for line in (out / "yolo" / "labels" / "stdin.txt").read_text().splitlines()]
    objects = ElementTree.parse(out / "voc" / "stdin.xml").findall("object")
    assert len(lines) == len(yolo) == len(objects) == len(first)
    assert (out / "yolo" / "classes.txt").read_text().splitlines() == names
    for row, line, numbers, thing in zip(first, lines, yolo, objects, strict=True):
        left, top, width, height = row["bbox"]
        assert line["name"] == names[ids.index(row["category_id"])] == thing.findtext("name")
        assert int(numbers[0]) == ids.index(row["category_id"]) and float(line["score"]) == row["score"]
        assert float(line["right"]) == pytest.approx(left + width, abs=2e-3)
        assert float(numbers[1]) == pytest.approx((left + width / 2) / 64, abs=2e-4)
        assert float(numbers[4]) == pytest.approx(height / 48, abs=2e-4)
        assert float(thing.findtext("bndbox/ymin") or 0) == pytest.approx(top + 1, abs=2e-3)
    crops = list((out / "crops").rglob("*.jpg"))
    assert len(crops) == len(rows) and {path.parent.name for path in crops} <= set(names)


def test_label_maps_are_also_tables_and_masks(tiny_runs: dict[str, Path], tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 50, 3), np.uint8))
    words = ("--run", tiny_runs["seg"], "--save", "coco,csv", tmp_path / "a.png", "--output", tmp_path / "o")
    predict.main([*map(str, (*words, "--workers", 0))])
    with (tmp_path / "o" / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    masks = json.loads((tmp_path / "o" / "predictions.json").read_text())
    assert len(lines) == len(masks) and all(mask["segmentation"]["size"] == [40, 50] for mask in masks)
    with pytest.raises(UserError, match="--save crops: classification models write csv; leave crops out"):
        predict.main([*map(str, ("--run", tiny_runs["cls"], "--save", "crops", tmp_path / "a.png"))])
    with pytest.raises(UserError, match="--save png: expected names among coco, csv, yolo, voc, crops"):
        predict.main([*map(str, ("--run", tiny_runs["seg"], "--save", "png", tmp_path / "a.png"))])


def test_options_of_texts_and_numbers_name_both_in_the_help_and_in_errors(capsys: pytest.CaptureFixture):
    with pytest.raises(UserError, match="--score bst: expected float or best or null; see --help"):
        predict.main(["--run", "r", "a.png", "--score", "bst"])
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--score SCORE least score" in shown and "(type: float | best | null, default: null)" in shown
    assert "--draw {true,false}" in shown


def test_a_jpeg_of_a_telephone_is_read_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pillow calls a JPEG with further images, such as a depth map, MPO."""
    content = io.BytesIO()
    first, second = (Image.new("RGB", (64, 48), colour) for colour in ("red", "blue"))
    first.save(content, "MPO", save_all=True, append_images=[second])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.getvalue())))
    (found,) = find_inputs(["-"], tmp_path).files
    assert found.path.suffix == ".jpg" and cv2.imread(str(found.path)).shape == (48, 64, 3)


def test_a_stride_leaves_frames_out_and_keeps_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    video = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 12, (64, 48))
    for _ in range(8):
        video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    found = find_inputs([str(tmp_path / "a.mp4")], tmp_path, stride=3).files
    images = list(stream(found, lambda image: image, workers=0))
    assert [(image.frame, image.problem) for image in images] == [(0, ""), (3, ""), (6, "")]
    assert count_images(found) == 3 and inputs.read_header(found[0]).fps == 4

    # A camera is read like a video, without a known end.
    opened: list[object] = []

    def capture(source: object, *_: object) -> cv2.VideoCapture:
        opened.append(source)
        return film(str(tmp_path / "a.mp4"))

    film = cv2.VideoCapture
    monkeypatch.setattr(inputs.cv2, "VideoCapture", capture)
    (camera,) = find_inputs(["7"], tmp_path, stride=4).files
    assert [image.frame for image in stream([camera], lambda image: image, workers=0)] == [0, 4]
    assert (opened, count_images([camera]), camera.name) == ([7], None, "camera-7")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("-", "-: standard input is empty; pipe an image into the command"),
        ("ftp://a.b/c.jpg", "ftp://a.b/c.jpg: addresses of ftp are not supported; use one of http, https, rtsp"),
        ("http://127.0.0.1:9/c.jpg", "http://127.0.0.1:9/c.jpg: cannot be downloaded ("),
        ("http://", "http://: cannot be downloaded (no host given); check the address"),
        ("c:/nowhere.jpg", "c:/nowhere.jpg: no such file or folder; check the path"),
    ],
)
def test_inputs_that_cannot_be_had_are_named(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    (problem,) = find_inputs([name], tmp_path).problems
    assert problem.startswith(words)


def test_cameras_and_streams_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch):
    missing = InputFile(Path("73"), "camera-73", "camera 73", live=73)
    broken = InputFile(Path("x"), "stream", "rtsp://127.0.0.1:9/x", live="rtsp://127.0.0.1:9/x")
    found = [image.problem for image in stream([missing, broken], lambda image: image, workers=0)]
    assert found == [
        "camera 73: there is no such camera, or it is in use; cameras count from 0",
        "rtsp://127.0.0.1:9/x: the stream cannot be opened; check the address and that its server runs",
    ]


def test_a_download_is_limited(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "MOST_BYTES", 100)
    (problem,) = find_inputs([f"{server}/image"], tmp_path).problems
    assert f"{server}/image: cannot be downloaded (has more than 0 MiB)" in problem
