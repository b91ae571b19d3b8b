"""Refined boxes, several views, several models, and the whole image as context."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tolerances import assert_rounded

import detection
from backbones.errors import UserError
from detection.data.annotations import CategoryMap
from detection.predict import Predictor, View, flip_boxes, unite, vote
from detection.trained import from_file
from tools.cli.parsing import parse
from tools.tasks.options import TrainDetectorOptions

SMALL = {"min_size": 64, "max_size": 96, "head_channels": 32, "fpn_channels": 32, "rois_per_image": 16, "proposals": 50}
THREE = CategoryMap((1, 2, 3), ("circle", "square", "star"))


def detector(seed: int = 0, backbone: str = "resnet18", **options) -> detection.FasterRCNN:
    """Return a model with seeded weights whose scores are spread enough to detect objects.

    In double precision, so that neither limits of scores nor NMS depend on rounding.
    """
    torch.manual_seed(seed)
    model = detection.build(backbone, 3, **{**SMALL, "score_threshold": 0.2, **options}).double().eval()
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def model() -> detection.FasterRCNN:
    return detector()


def images() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    sizes = ((50, 70), (90, 70))
    return [torch.randint(0, 256, (3, *size), generator=random).double() / 255 for size in sizes]


@torch.inference_mode()
def found(model, **options) -> list[dict[str, torch.Tensor]]:
    return Predictor(model, **options).eval()(images())


def assert_same(one, other, *, exact: bool = False) -> None:
    for a, b in zip(one, other, strict=True):
        assert len(a["boxes"]) > 3
        for name in ("boxes", "scores", "labels"):
            assert torch.equal(a[name], b[name]) or not exact
            # torchvision's ratios of sizes are in single precision: two roundings, which scores multiply by 30.
            assert_rounded(a[name], b[name], terms=2, layers=30)


def test_by_default_the_predictor_equals_the_model_exactly(model):
    with torch.inference_mode():
        expected = model(images())
    assert_same(found(model), expected, exact=True)


def test_several_views_at_the_models_own_size_equal_the_model(model):
    """Naming its own size, its own threshold, or the model twice uses the code for several views."""
    plain = found(model)
    assert_same(found(model, sizes=[64]), plain)
    assert_same(found(model, nms=0.5), plain)
    single = detector(neck="dc5")  # proposals of one level, of which a second NMS removes none
    assert_same(found([single, single]), found(single))


@torch.inference_mode()
def test_a_flipped_view_of_a_flipped_image_equals_a_plain_view(model):
    plain, turned = Predictor(model, flip=True).views
    image, boxes = images()[0], torch.tensor([[5.0, 5, 40, 40], [1.0, 1, 20, 20]], dtype=torch.double)
    one, other = View.of([image], *plain), View.of([image.flip(-1)], *turned)
    torch.testing.assert_close(flip_boxes(other.proposals[0], 70), one.proposals[0])
    (scores,), (class_boxes,) = one.score([boxes])
    (again,), (flipped_boxes,) = other.score([flip_boxes(boxes, 70)])
    torch.testing.assert_close(again, scores)
    torch.testing.assert_close(flip_boxes(flipped_boxes.flatten(0, 1), 70), class_boxes.flatten(0, 1))


def test_other_sizes_keep_boxes_in_pixels_of_the_image(model):
    for each, image in zip(found(model, sizes=[48, 96], refine=True, flip=True), images(), strict=True):
        assert len(each["boxes"])
        assert (each["boxes"] >= 0).all()
        assert (each["boxes"] <= torch.tensor(image.shape[-1:-3:-1]).repeat(2)).all()


def test_the_longest_side_grows_with_the_size(model):
    """An image of 60x200 pixels at short side 64 is limited to 96 pixels, at 128 to twice that, 192."""
    views = Predictor(model, sizes=[64, 128]).views
    assert [transform([torch.zeros(3, 60, 200)])[0].image_sizes for _, transform, _ in views] == [
        [(28, 96)],
        [(57, 192)],
    ]


def test_refinement_scores_the_boxes_found_once_more(model, monkeypatch):
    """The second pass scores, for each proposal, the box of its likeliest class."""
    asked = []
    score = type(model.roi_heads).score
    monkeypatch.setattr(type(model.roi_heads), "score", lambda self, *a: asked.append(a[1]) or score(self, *a))
    found(model, refine=True)
    first, second = asked
    assert [len(boxes) for boxes in first] == [len(boxes) for boxes in second]
    assert not torch.equal(first[0], second[0])


def test_proposals_are_united_by_rank():
    """The first boxes of both views are equally good; the second box of the second view repeats one of them."""
    a, b, c = ([0.0, 0, 10, 10], [20.0, 20, 30, 30], [40.0, 40, 50, 50])
    near_a = [0.0, 0, 10, 9]
    joined = unite([torch.tensor([a, b]), torch.tensor([c, near_a])])
    assert sorted(joined.tolist()) == [a, b, c]
    assert {tuple(box) for box in joined[:2].tolist()} == {tuple(a), tuple(c)}


def test_boxes_vote_by_score_where_they_overlap_by_half():
    """IoU 9/11 > 0.5: (0.6 * 0 + 0.2 * 1) / 0.8 = 0.25 further right; IoU 4/16 and the other class do not vote."""
    kept = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [6, 0, 16, 10], [2, 0, 12, 10]])
    votes = torch.tensor([[0.6, 0.2, 0.9, 0.0]])
    torch.testing.assert_close(vote(kept, boxes, votes), torch.tensor([[0.25, 0, 10.25, 10]]))


def test_an_image_without_proposals_has_no_detections(model, monkeypatch):
    monkeypatch.setattr(model.rpn, "score_thresh", 2.0)
    assert [len(each["boxes"]) for each in found(model, refine=True, flip=True)] == [0, 0]


def test_an_ensemble_averages_probabilities_of_different_backbones(model):
    """The probabilities of a proposal are the mean of the softmaxes of both models."""
    other = detector(1, "plain18", neck="dc5")
    predictor = Predictor([model, other]).eval()
    with torch.inference_mode():
        views = [View.of(images()[:1], *view) for view in predictor.views]
        boxes = [torch.tensor([[5.0, 5, 40, 40], [1.0, 1, 20, 20]], dtype=torch.double)]
        (scores,), (class_boxes,) = predictor._score(views, boxes)
        one, two = (view.score(boxes) for view in views)
    torch.testing.assert_close(scores, (one[0][0] + two[0][0]) / 2)
    weights = one[0][0] / (one[0][0] + two[0][0])
    expected = weights[..., None] * one[1][0] + (1 - weights)[..., None] * two[1][0]
    torch.testing.assert_close(class_boxes, expected)
    assert found([model, other])[0]["labels"].max() <= 3


@pytest.mark.parametrize("neck", ["fpn", "c4"])
def test_context_appends_the_feature_of_the_whole_image_to_each_box(neck: str):
    """Changing another part of the image changes the scores of a box only with context."""
    model = detector(neck=neck, context=True)
    heads, boxes = model.roi_heads, [torch.tensor([[0.0, 0, 20, 20]]).double(), torch.zeros(0, 4).double()]
    assert (
        heads.box_predictor.cls_score.in_features
        == 2 * detector(neck=neck).roi_heads.box_predictor.cls_score.in_features
    )
    maps = {
        each.name: torch.rand(2, each.channels, 64 // each.stride, 64 // each.stride, dtype=torch.double)
        for each in model.backbone.roi_features
    }
    sizes = [(64, 64), (64, 64)]
    with torch.inference_mode():
        own = heads.box_head(heads.box_roi_pool(maps, boxes, sizes))
        everything = [torch.tensor([[0.0, 0, 64, 64]]).double(), boxes[1]]
        whole = heads.box_head(heads.box_roi_pool(maps, everything, sizes))
        logits = heads.score(maps, boxes, sizes).logits
        expected, _ = heads.box_predictor(torch.cat([own, whole], dim=1))
    torch.testing.assert_close(logits, expected)


def test_context_has_a_gradient_in_every_parameter_and_predicts_with_losses():
    model = detector(context=True).train()
    targets = [{"boxes": torch.tensor([[4.0, 6, 40, 45]]).double(), "labels": torch.tensor([1])} for _ in range(2)]
    sum(model(images(), targets).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.inference_mode():
        detections, losses = Predictor(model.eval()).predict_with_losses(images(), targets)
    assert len(detections) == 2 and len(losses) == 4
    with pytest.raises(UserError, match="needs one model and one view"):
        Predictor(model, flip=True).predict_with_losses(images(), targets)


def saved(model: detection.FasterRCNN, path: Path, **options) -> Path:
    kept = {**SMALL, "backbone": "resnet18", "neck": "fpn", "weights": "none", "freeze": None, **options}
    meta = {"task": "detection", "category_ids": [1, 2, 3], "category_names": list(THREE.names), "model": kept}
    meta |= {"input": model.transform.describe(), "norm_eps": 1e-5}
    save_file(model.state_dict(), path, metadata={"meta": json.dumps(meta)})
    return path


def test_an_ensemble_of_files_matches_labels_by_category(model, tmp_path: Path):
    path = saved(detector(2, context=True), tmp_path / "other.safetensors", context=True)
    same = from_file(path, THREE).eval()
    assert same.roi_heads.context
    swapped = from_file(path, CategoryMap((3, 1, 2), ("star", "circle", "square"))).eval()
    rows, other = (model.roi_heads.box_predictor.cls_score.bias for model in (same, swapped))
    assert torch.equal(rows[[0, 3, 1, 2]], other)
    with pytest.raises(UserError, match=r"was not trained on 1 of the data's categories \(moon\); use"):
        from_file(path, CategoryMap((1, 2, 9), ("circle", "square", "moon")))
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="is not a detector of this project"):
        from_file(tmp_path / "bare.safetensors", THREE)


def test_a_file_without_context_does_not_fit_a_model_with_context(model, tmp_path: Path):
    path = saved(model, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"does not fit this detector \(0 entries missing, 2 of another shape"):
        detection.build("resnet18", 3, weights=path, categories=THREE, context=True, **SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sizes": [0]}, r"sizes=\[0\]: must be above 0 pixels"),
        ({"nms": 1.5}, "nms=1.5: must be above 0 and at most 1"),
    ],
)
def test_wrong_arguments(model, wrong, message: str):
    with pytest.raises(UserError, match=message):
        Predictor(model, **wrong)


def test_a_predictor_needs_a_model():
    with pytest.raises(UserError, match="models: the list is empty; give at least one model"):
        Predictor([])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--ensemble", "[a.safetensors]"], "needs --eval-only"),
        (["--val-loss", "--refine"], "leave out --refine"),
        (["--test-nms", "0"], "must be above 0"),
        (["--test-sizes", "[]"], "must be sizes in pixels above 0"),
    ],
)
def test_impossible_options_are_refused(words, text):
    with pytest.raises(UserError, match=text):
        parse(TrainDetectorOptions, description="", argv=words)
