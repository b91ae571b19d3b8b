"""RoIAlign by weighted rows gives torchvision's numbers and gradients."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from backbones import FeatureInfo
from detection.roi_align import PyramidRoIAlign, align_by_rows

BOXES = torch.tensor(
    [[0.0, 0, 20, 20], [3.3, 4.7, 9.1, 30], [-6, -9, 5, 5], [25, 10, 60, 55], [7, 7, 7.2, 7.1], [-50, -50, -20, -30]]
)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_equals_torchvisions_operator_and_its_gradient(samples: int, channels_last: bool):
    """Return boxes inside, across the border, thinner than a cell and outside, on a map that is not square."""
    torch.manual_seed(0)
    features = torch.randn(3, 5, 11, 14, dtype=torch.float64)
    form = torch.channels_last if channels_last else torch.contiguous_format
    features = features.to(memory_format=form).requires_grad_()
    boxes = 2 * BOXES.double().repeat(2, 1)
    image = torch.tensor([0] * 4 + [2] * 8)  # no box in the middle image
    rois = torch.cat([image[:, None].double(), boxes], dim=1)
    expected = roi_align(features, rois, 7, spatial_scale=0.5, sampling_ratio=samples)
    of_images = [boxes[image == n] for n in range(3)]
    found = align_by_rows([features], [0.5], of_images, torch.zeros(12, dtype=torch.int64), size=7, samples=samples)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((out * weights).sum(), features)[0] for out in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("count", [4, 1])
def test_levels_equal_torchvisions(count: int):
    torch.manual_seed(0)
    infos = [FeatureInfo(f"p{level}", 4, 2**level) for level in (2, 3, 4, 5)][:count]
    maps = {info.name: torch.randn(2, 4, 256 // info.stride, 192 // info.stride) for info in infos}
    corner, side = torch.rand(60, 2) * 100, torch.rand(60, 2) ** 3 * 400 + 2
    boxes = [torch.cat([corner, corner + side], dim=1)[:25], torch.cat([corner, corner + side], dim=1)[25:]]
    theirs = MultiScaleRoIAlign([info.name for info in infos], 7, 2)
    expected = theirs(maps, boxes, [(256, 192)] * 2)
    ours = PyramidRoIAlign(infos, 7, 2)
    torch.testing.assert_close(ours.eval()(maps, boxes, [(256, 192)] * 2), expected, rtol=0, atol=0)
    maps, boxes = {name: values.double() for name, values in maps.items()}, [each.double() for each in boxes]
    expected = theirs(maps, boxes, [(256, 192)] * 2)
    torch.testing.assert_close(ours.train()(maps, boxes, [(256, 192)] * 2), expected)  # by rows
    none = ours(maps, [torch.zeros(0, 4)] * 2, [(256, 192)] * 2)
    assert none.shape == (0, 4, 7, 7)


def test_16_bit_features_lose_no_more_than_their_rounding():
    torch.manual_seed(0)
    infos = [FeatureInfo("p2", 8, 4)]
    maps = {"p2": torch.randn(1, 8, 40, 40).to(memory_format=torch.channels_last)}
    boxes = [torch.tensor([[8.0, 8, 100, 90]])]
    exact = PyramidRoIAlign(infos, 7, 2)(maps, boxes, [(160, 160)])
    found = PyramidRoIAlign(infos, 7, 2)({"p2": maps["p2"].bfloat16()}, boxes, [(160, 160)])
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().max() < 0.02  # 2^-8 of a value, its weights and the sum


@pytest.mark.parametrize(
    ("training", "dtype", "by_rows"),
    [
        (True, torch.float32, True),
        (True, torch.bfloat16, True),
        (False, torch.bfloat16, True),
        (False, torch.float32, False),  # predictions in fp32 equal torchvision's exactly
    ],
)
def test_weighted_rows_replace_the_operator_on_a_cpu_except_for_fp32_predictions(
    monkeypatch: pytest.MonkeyPatch, training: bool, dtype: torch.dtype, by_rows: bool
):
    calls = []

    def counted(*arguments: object, **options: object) -> torch.Tensor:
        calls.append(arguments)
        return align_by_rows(*arguments, **options)

    monkeypatch.setattr("detection.roi_align.align_by_rows", counted)
    pool = PyramidRoIAlign([FeatureInfo("p2", 4, 4)], 7, 2).train(training)
    pool({"p2": torch.randn(1, 4, 16, 16).to(dtype)}, [torch.tensor([[0.0, 0, 30, 30]])], [(64, 64)])
    assert len(calls) == by_rows


def test_exported_models_keep_torchvisions_operator():
    class Reader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = PyramidRoIAlign([FeatureInfo("p2", 4, 4)], 7, 2)

        def forward(self, features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
            return self.pool({"p2": features}, [boxes], [(64, 64)])

    example = torch.randn(1, 4, 16, 16), torch.tensor([[0.0, 0, 30, 30]])
    assert "torchvision.roi_align" in str(torch.export.export(Reader(), example).graph)


def test_a_box_is_read_from_the_level_of_its_size():
    """Level 4, the third, is for sides of 224 to 447 pixels; each level below it for half of that."""
    pool = PyramidRoIAlign([FeatureInfo(f"p{level}", 4, 2**level) for level in (2, 3, 4, 5)], 7, 2)
    sides = torch.tensor([20.0, 111, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert pool.map_levels([boxes]).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
