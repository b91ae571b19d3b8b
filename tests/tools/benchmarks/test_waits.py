"""A detector makes Python wait for a GPU at known places only, however many images a batch has."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import detection
from tools.benchmarks.waits import count_waits
from tools.engine import optim
from tools.engine.loop import train_epoch
from tools.engine.options import TrainOptions
from tools.engine.state import Precision, Training

SMALL = {"min_size": 64, "max_size": 96, "head_channels": 32, "fpn_channels": 32, "rois_per_image": 16, "proposals": 50}
PROPOSALS = {"boxes.py:nms": 1, "suppression.py:_best": 1}  # of the RPN: one suppression, and the numbers of boxes
TRAINING = Counter(PROPOSALS) + Counter(
    {
        "sampling.py:sample_of_images": 2,  # of anchors and of RoIs
        "roi_align.py:align_by_levels": 1,
        "loop.py:_not_finite": 1,
    }
)
# Of the mask branch: the positives and their numbers, RoIAlign, and all sizes of the targets at once.
MASKS = Counter({"roi_heads.py:_mask_loss": 2, "roi_align.py:align_by_levels": 1, "strips.py:_chunks": 1})
PREDICTION = (
    Counter(PROPOSALS)
    + Counter(PROPOSALS)
    + Counter({"suppression.py:detections_of_images": 2, "roi_align.py:align_by_levels": 1})
)


def images(count: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.rand(3, 64, 64 + 8 * (n % 2), generator=random) for n in range(count)]


def targets(count: int) -> list[dict[str, torch.Tensor]]:
    boxes = torch.tensor([[4.0, 6, 40, 50], [30, 20, 60, 60]])
    # The objects fill their boxes, in strips of one column.
    sides = enumerate(boxes.int().tolist())
    strips = [(number, x, x + 1, box[1], box[3]) for number, box in sides for x in range(box[0], box[2])]
    one = {"boxes": boxes, "labels": torch.tensor([1, 2]), "strips": torch.tensor(strips, dtype=torch.int32)}
    return [{**one, "image_id": torch.tensor(n)} for n in range(count)]


def a_training(model: torch.nn.Module) -> Training:
    options = TrainOptions(lr=1e-4)
    optimizer = optim.build_optimizer(model, options)
    schedule = optim.build_schedule(optimizer, options, 10)
    return Training(model, optimizer, schedule, Precision(torch.device("cpu"), torch.float32))


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("masks", [False, True])
def test_places_where_a_training_step_waits(count: int, masks: bool):
    torch.manual_seed(0)
    model = detection.build("timm/test_resnet", 2, weights=None, masks=masks, mask_channels=16, **SMALL)
    model.trust_targets()  # as the training command does: the loader checks them
    steps = train_epoch(a_training(model), [(images(count), targets(count))] * 2)
    next(steps)  # the first step makes the constants and the optimizer's state
    assert count_waits(lambda: next(steps)) == (TRAINING + MASKS if masks else TRAINING)


@pytest.mark.parametrize("count", [1, 4])
def test_places_where_a_prediction_waits(count: int):
    torch.manual_seed(0)
    model = detection.build("timm/test_resnet", 2, weights=None, **SMALL).eval()
    batch = images(count)
    with torch.inference_mode():
        model(batch)  # makes the constants
        assert count_waits(lambda: model(batch)) == PREDICTION


def test_constants_and_copies_wait():
    values = torch.arange(3.0)

    def step() -> None:
        torch.tensor([1.0], device="cpu")
        torch.as_tensor([1.0], device="cpu")
        torch.tensor([1.0])  # stays in main memory
        torch.as_tensor(values, device="cpu")  # is there already
        values.new_tensor([1.0])
        values.new_full((), 1.0)  # is filled on the GPU

    assert count_waits(step) == {"test_waits.py:step": 3}
