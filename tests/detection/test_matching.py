"""Matching of boxes equals torchvision's matcher for any size of block, and needs little memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

import detection
from backbones.common import devices
from detection import matching
from detection.matching import match_boxes
from detection.rpn import Anchors
from tools.benchmarks.peak import peak_memory
from tools.benchmarks.rounds import Implementation

SMALL = {"min_size": 256, "max_size": 256, "head_channels": 16, "fpn_channels": 16, "rois_per_image": 16}
CROWDED = 3000  # true boxes on one image
BOUND = 200e6  # bytes that they may add to a step; the IoUs with 16,368 anchors alone would be 196e6


def boxes_of(count: int, *, seed: int, side: int = 100) -> torch.Tensor:
    """Return boxes with whole coordinates, so that many IoUs are equal."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, side, (count, 2), generator=random)
    return torch.cat([corner, corner + torch.randint(1, 30, (count, 2), generator=random)], dim=1).float()


@pytest.fixture(params=["cpu", "gpu"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Match as on a CPU, and as on a GPU, where no number of matches is read."""
    monkeypatch.setattr(devices, "reading_waits", lambda device: request.param == "gpu")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("pairs", [1, 60, 1 << 20])
@pytest.mark.parametrize("low_quality", [True, False])
def test_matching_in_blocks_equals_torchvisions_matcher(pairs: int, low_quality: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matching, "PAIRS", pairs)
    matcher = Matcher(0.5, 0.3, low_quality)
    truth, boxes = boxes_of(30, seed=0, side=50), boxes_of(200, seed=1, side=50)
    assert torch.equal(match_boxes(truth, boxes, matcher), matcher(box_iou(truth, boxes)))
    ordered = boxes[boxes[:, 1].argsort()]  # row by row, as anchors are, so that true boxes elsewhere are skipped
    expected = matcher(box_iou(truth, ordered))
    assert len(set(expected.tolist())) > 10
    assert torch.equal(match_boxes(truth, ordered, matcher), expected)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("pairs", [60, 1 << 20])
def test_a_true_box_that_nothing_overlaps(pairs: int, monkeypatch: pytest.MonkeyPatch):
    """The true box has the IoU 0 with every box. torchvision then matches every box to its nearest, and so do we."""
    monkeypatch.setattr(matching, "PAIRS", pairs)
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    truth = torch.cat([boxes_of(9, seed=0), torch.tensor([[900.0, 900, 910, 910]])])
    boxes = boxes_of(50, seed=1)
    assert torch.equal(match_boxes(truth, boxes, matcher), matcher(box_iou(truth, boxes)))
    none = torch.tensor([[900.0, 900, 910, 910]])
    assert torch.equal(match_boxes(none, boxes, matcher), matcher(box_iou(none, boxes)))


@pytest.mark.usefixtures("way")
def test_thresholds_belong_to_the_upper_side():
    """Boxes of 8, 4, 2 and 1 rows in a true box of 8: IoUs of 1, 1/2, 1/4 and 1/8 against thresholds 1/4 and 1/2."""
    boxes = torch.tensor([[0.0, 0, 8, rows] for rows in (8, 4, 2, 1)])
    assert match_boxes(boxes[:1], boxes, Matcher(0.5, 0.25)).tolist() == [0, 0, -2, -1]


@pytest.mark.usefixtures("way")
def test_a_box_that_overlaps_nothing_is_nearest_to_the_first_true_box(monkeypatch: pytest.MonkeyPatch):
    """Nothing overlaps the last true box, so each box is matched. The second one has IoU 0 with all: the first counts.

    Two boxes make a block, and the first true box is not near the first block.
    """
    monkeypatch.setattr(matching, "PAIRS", 6)
    truth = torch.tensor([[500.0, 500, 510, 510], [0, 0, 10, 10], [900, 900, 910, 910]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 20, 10, 30], [500, 500, 510, 510]])
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    assert match_boxes(truth, boxes, matcher).tolist() == matcher(box_iou(truth, boxes)).tolist() == [1, 0, 0]


def crowded_step(count: int) -> Any:
    """Run a training step with so many true boxes in one image."""
    torch.manual_seed(0)
    model = detection.build("timm/test_resnet", 2, weights=None, **SMALL).train()
    image = torch.zeros(3, 256, 256)
    target = {"boxes": boxes_of(count, seed=0, side=220), "labels": torch.ones(count, dtype=torch.int64)}

    def step() -> None:
        losses = model([image], [target])
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())

    return step


def test_thousands_of_true_boxes_train_in_bounded_memory():
    few, many = (peak_memory(Implementation("c", partial(crowded_step, count)), threads=1) for count in (3, CROWDED))
    assert few is not None and many is not None
    assert many - few < BOUND


@pytest.mark.usefixtures("way")
def test_thousands_of_true_boxes_get_torchvisions_targets():
    model = detection.build("timm/test_resnet", 2, weights=None, **SMALL)
    anchors = Anchors(((16,), (64,)), ((0.5, 1.0, 2.0),) * 2)(
        ImageList(torch.zeros(1, 3, 256, 256), [(256, 256)]), [torch.zeros(1, 1, side, side) for side in (32, 8)]
    )[0]
    target = {"boxes": boxes_of(CROWDED, seed=0, side=220)}
    labels, truth = model.rpn.assign_targets_to_anchors([anchors], [target])
    expected = RegionProposalNetwork.assign_targets_to_anchors(model.rpn, [anchors], [target])
    assert torch.equal(labels[0], expected[0][0])
    assert torch.equal(truth[0], expected[1][0])
    assert labels[0].unique().tolist() == [-1, 0, 1]
