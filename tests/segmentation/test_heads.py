"""Registered heads: a head of the user's own, its weights, and names that are taken or unknown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import backbones
import segmentation
from backbones import FeatureInfo
from backbones.errors import UserError
from segmentation.heads import HEADS


class MeanOfScores(nn.Module):
    """Averages the scores of the last feature and of the one before, at the finer size."""

    def __init__(self, finer: FeatureInfo, num_classes: int) -> None:
        super().__init__()
        self.name, self.score = finer.name, nn.Conv2d(finer.channels, num_classes, 1)

    def forward(self, scores: Tensor, features: dict[str, Tensor]) -> Tensor:
        finer = self.score(features[self.name])
        return (finer + nn.functional.interpolate(scores, size=finer.shape[-2:])) / 2


@pytest.fixture
def mean_head(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Registers a head that is gone after the test."""
    monkeypatch.setattr(HEADS, "_builders", dict(HEADS._builders))

    @segmentation.register_head("mean", features=2, output_stride=16)
    def build_mean(feature_info: tuple[FeatureInfo, ...], num_classes: int, *, aux: bool) -> segmentation.Head:
        finer, last = feature_info
        return segmentation.Head(nn.Conv2d(last.channels, num_classes, 1), MeanOfScores(finer, num_classes))

    yield "mean"


@pytest.mark.usefixtures("narrow")
def test_a_registered_head_trains_and_predicts(mean_head: str) -> None:
    model = segmentation.build("resnet18", 5, head=mean_head).train()
    assert [info.stride for info in model.backbone.feature_info] == [16, 16]
    images = torch.randint(0, 256, (2, 3, 70, 93), dtype=torch.uint8)
    losses = model(images, {"mask": torch.randint(0, 5, (2, 70, 93), dtype=torch.uint8)})
    assert set(losses) == {"loss_seg"}
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.eval()(images)["out"].shape == (2, 5, 70, 93)


@pytest.mark.usefixtures("narrow")
def test_its_file_comes_back_whole_and_other_classes_start_new(mean_head: str, tmp_path: Path) -> None:
    first = segmentation.build("resnet18", 5, head=mean_head).eval()
    torch.save(first.state_dict(), tmp_path / "model.pth")
    again = segmentation.build("resnet18", 5, head=mean_head, weights=tmp_path / "model.pth").eval()
    images = torch.rand(1, 3, 40, 40)
    assert torch.equal(again(images)["out"], first(images)["out"]) and not again.load_report.missing
    other = segmentation.build("resnet18", 7, head=mean_head, weights=tmp_path / "model.pth")
    parts = ("classifier", "fusion.score")
    assert set(other.load_report.missing) == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    with pytest.raises(UserError, match=r"does not fit this model .* such as classifier\.0\.weight"):
        segmentation.build("resnet18", 5, head="fcn32s", weights=tmp_path / "model.pth")


def test_a_head_needs_the_features_that_it_was_registered_with(mean_head: str) -> None:
    trunk = backbones.build("resnet18", weights=None, features=("c5",))
    with pytest.raises(UserError, match="head 'mean' needs 2 features, but the backbone returns c5"):
        segmentation.build(trunk, 3, head=mean_head, aux=False)


def test_names_that_are_taken_or_unknown() -> None:
    with pytest.raises(ValueError, match="segmentation head 'fcn8s' is registered already"):
        segmentation.register_head("fcn8s")(HEADS["fcn16s"].build)
    with pytest.raises(UserError, match="unknown segmentation head 'dilate': did you mean dilated"):
        segmentation.build("resnet18", 3, head="dilate")
