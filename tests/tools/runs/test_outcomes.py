"""The outcome of every object and detection, by hand."""

from __future__ import annotations

from pathlib import Path

from tools.runs.folder import RunFolder
from tools.runs.outcomes import BoxPredictions


def test_every_object_and_detection_has_its_outcome(known_run: Path):
    found = BoxPredictions.read(RunFolder.read(known_run), data=None, score=0.5)
    images = {image.path.name: image for image in found.images}
    counts = [(image.found, image.missed, image.false_positives) for image in images.values()]
    assert counts == [(1, 1, 1), (0, 0, 1), (0, 1, 1), (0, 0, 0)]
    assert [each.cause for each in images["005.jpg"].detections] == ["", "wrong class, brush"]
    assert images["007.jpg"].detections[0].cause == "background"
    by_status = {each.status: each for each in images["009.jpg"].detections}
    assert by_status["false positive"].cause == "poor localization, IoU 0.47" and by_status["ignored"].score == 0.95
    assert [each.status for each in images["011.jpg"].objects] == ["ignored"]
    assert [round(image.f1, 3) for image in images.values()] == [0.5, 0, 0, 1]  # 2 x 1 / (2 x 1 + 1 + 1)
