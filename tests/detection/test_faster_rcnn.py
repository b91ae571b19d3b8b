"""Faster R-CNN: equal to torchvision's, and trainable with every backbone and neck."""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

import backbones
import detection
from backbones.common.datasets import find_split
from backbones.errors import UserError
from detection.data.annotations import CategoryMap
from detection.data.dataset import CocoDetection, collate
from detection.matching import ignore_negatives, largest_fraction_inside
from detection.preprocess import Preprocessor
from detection.settings import DetectorSettings
from detection.targets import check_targets
from detection.transforms import Augment
from tools import predict

SMALL = {"min_size": 64, "max_size": 96, "head_channels": 32, "fpn_channels": 32, "rois_per_image": 16, "proposals": 50}

SIZES = {"min_size": 64, "max_size": 96}  # smaller than the default, to be fast


def targets_for(count: int) -> list[dict[str, torch.Tensor]]:
    box = torch.tensor([[4.0, 6.0, 40.0, 50.0]])
    return [{"boxes": box + i, "labels": torch.tensor([1])} for i in range(count)]


def images_of(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random) for size in sizes]


def live_torchvision() -> torch.nn.Module:
    """Return torchvision's detector with seeded weights whose scores are spread enough to detect objects."""
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=91, **SIZES
    )
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, torch.nn.Module, Path]:
    """Return torchvision's detector, ours loaded from its file, and the file."""
    theirs = live_torchvision()
    path = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.save(theirs.state_dict(), path)
    # In double precision, so that neither limits of scores nor NMS depend on rounding.
    return theirs.double(), detection.build("resnet50", 90, weights=path, norm="batch", **SIZES).double(), path


def assert_equal_to_torchvision(theirs, ours, images, targets) -> None:
    images = [image.double() / 255 for image in images]
    with torch.no_grad():
        expected, found = theirs.eval()(images), ours.eval()(images)
    for one, other in zip(expected, found, strict=True):
        assert len(one["boxes"]) > 10
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(other[name], one[name], check_dtype=False)
    plain = [{"boxes": target["boxes"].double(), "labels": target["labels"]} for target in targets]
    losses = []
    for model in (theirs, ours):
        torch.manual_seed(1)  # both sample anchors and proposals
        with torch.no_grad():
            losses.append(model.train()(images, plain))
    torch.testing.assert_close(losses[1], losses[0])


def test_equals_torchvision_on_noise(twins):
    assert_equal_to_torchvision(*twins[:2], images_of((120, 160), (200, 150)), targets_for(2))


def test_equals_torchvision_on_real_images(twins, coco_mini: Path):
    annotations = detection.CocoAnnotations.read(*find_split(coco_mini, "val"))
    items = [CocoDetection(annotations, Augment("eval"))[index] for index in (0, 5)]
    assert_equal_to_torchvision(*twins[:2], [item[0] for item in items], [item[1] for item in items])


def test_coco_predictor_is_mapped_to_the_datas_categories(twins):
    theirs, _, path = twins
    categories = CategoryMap((3, 18, 90, 91), ("car", "dog", "toothbrush", "unicorn"))
    ours = detection.build("resnet50", 4, weights=path, categories=categories)
    assert ours.load_report.missing == ("roi_heads.box_predictor.row of unicorn",)
    rows = ours.roi_heads.box_predictor
    assert torch.equal(rows.cls_score.weight[:4], theirs.roi_heads.box_predictor.cls_score.weight[[0, 3, 18, 90]])
    assert torch.equal(rows.bbox_pred.bias[4:8], theirs.roi_heads.box_predictor.bbox_pred.bias[12:16])


def test_categories_are_found_by_name_under_other_ids(twins):
    theirs, _, path = twins
    ours = detection.build("resnet50", 2, weights=path, categories=CategoryMap((0, 1), ("dog", "car")))
    weight = theirs.roi_heads.box_predictor.cls_score.weight
    assert torch.equal(ours.roi_heads.box_predictor.cls_score.weight, weight[[0, 18, 3]])  # background, dog, car
    assert ours.load_report.missing == ()
    assert ours.load_report.moved == ("dog: id 18 -> 0", "car: id 3 -> 1")
    assert "2 matched by name under another number (dog: id 18 -> 0, car: id 3 -> 1)" in str(ours.load_report)
    # "N/A" names several rows of COCO's file, so it needs its id.
    ours = detection.build("resnet50", 2, weights=path, categories=CategoryMap((12, 13), ("N/A", "stop sign")))
    assert ours.load_report.missing == ()
    ours = detection.build("resnet50", 2, weights=path, categories=CategoryMap((0, 13), ("N/A", "stop sign")))
    assert ours.load_report.missing == ("roi_heads.box_predictor.row of N/A",)


def test_a_detector_is_found_under_a_prefix(twins, tmp_path: Path):
    theirs, ours, _ = twins
    state = {f"model.detector.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": {**state, "criterion.weight": torch.ones(2)}}, tmp_path / "last.ckpt")
    wrapped = detection.build("resnet50", 90, weights=tmp_path / "last.ckpt")
    assert wrapped.load_report.unexpected == ("criterion.weight",)
    given = ours.state_dict()
    assert all(torch.equal(value, given[name].to(value.dtype)) for name, value in wrapped.state_dict().items())


@pytest.mark.usefixtures("narrow")
def test_a_detector_is_loaded_from_a_part_of_a_file(tmp_path: Path):
    teacher, student = (detection.build("resnet18", 3, **SMALL).state_dict() for _ in range(2))
    torch.save({"teacher": teacher, "student": student}, tmp_path / "pair.pth")
    chosen = detection.build("resnet18", 3, weights=f"{tmp_path}/pair.pth::student", **SMALL).state_dict()
    assert all(torch.equal(value, chosen[name]) for name, value in student.items())


def test_equal_ids_with_other_names_get_no_rows_of_coco(twins):
    """Category 1 of COCO is a person, so a circle with id 1 or a background with id 0 gets no row of it."""
    theirs, _, path = twins
    ours = detection.build("resnet50", 2, weights=path, categories=CategoryMap((0, 1), ("__background__", "circle")))
    assert len(ours.load_report.missing) == 2
    given = theirs.roi_heads.box_predictor.cls_score.weight
    assert not any(torch.equal(row, other) for row in ours.roi_heads.box_predictor.cls_score.weight for other in given)


def test_our_own_file_of_ninety_classes_is_not_mistaken_for_cocos(twins, tmp_path: Path):
    """Rows are found by the categories in the file's header, in any order of the data's categories."""
    names = [f"class {i}" for i in range(90)]
    meta = {"category_ids": list(range(90)), "category_names": names, "norm_eps": 0.5}
    path = tmp_path / "model.safetensors"
    save_file(twins[1].state_dict(), path, metadata={"meta": json.dumps(meta)})
    same = detection.build("resnet50", 90, weights=path, categories=CategoryMap(tuple(range(90)), tuple(names)))
    given = twins[1].roi_heads.box_predictor
    assert torch.equal(same.roi_heads.box_predictor.bbox_pred.weight, given.bbox_pred.weight)
    assert {module.eps for module in same.modules() if hasattr(module, "running_var")} == {0.5}
    part = detection.build("resnet50", 1, weights=path, categories=CategoryMap((7,), ("class 7",)))
    assert torch.equal(part.roi_heads.box_predictor.cls_score.bias, given.cls_score.bias[[0, 8]])


def test_the_published_coco_file_loads_from_its_cache_with_torchvisions_eps(twins, monkeypatch, tmp_path: Path):
    """`weights="coco"` loads torchvision's file from its cache and checks the hash in its name."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    from hashlib import sha256

    digest = sha256(twins[2].read_bytes()).hexdigest()[:8]
    name = f"fasterrcnn_resnet50_fpn_coco-{digest}.pth"
    os.link(twins[2], cache / name)
    monkeypatch.setattr("detection.weights.COCO_URL", f"http://127.0.0.1:9/{name}")
    model = detection.build("resnet50", 90, weights="coco")
    assert {module.eps for module in model.modules() if hasattr(module, "running_var")} == {0.0}
    assert "matched 295 of 295" in str(model.load_report) or len(model.load_report.missing) == 0


def test_the_published_detector_needs_no_run(monkeypatch, tmp_path: Path, capsys):
    """`load("coco")` scores boxes as torchvision's model with its own file, whose batch norm is frozen, epsilon 0."""
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    theirs = live_torchvision()
    state = {name: value for name, value in theirs.state_dict().items() if "num_batches_tracked" not in name}
    torch.save(state, cache / "coco.pth")
    name = f"fasterrcnn_resnet50_fpn_coco-{sha256((cache / 'coco.pth').read_bytes()).hexdigest()[:8]}.pth"
    (cache / "coco.pth").rename(cache / name)
    monkeypatch.setattr("detection.weights.COCO_URL", f"http://127.0.0.1:9/{name}")
    (tmp_path / "coco").mkdir()  # a folder of data, which is no run
    monkeypatch.chdir(tmp_path)
    detector = detection.load("coco", device="cpu", precision="fp32", score=0.0)
    assert len(detector.categories) == 80 and detector.categories.names[11:13] == ("stop sign", "parking meter")
    assert detector.categories.ids[11:13] == (13, 14)  # 12 is not used
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.0
    image = torch.randint(256, (3, 10, 266), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    net = detector.model.double()
    batch = [torch.tensor([[100.0, 10.0, 390.0, 40.0], [0.0, 0.0, 1300.0, 50.0]], dtype=torch.double)]
    with torch.no_grad():
        inputs, _ = net.transform([image.double() / 255])
        found = net.roi_heads.score(net.backbone(inputs.tensors), batch, inputs.image_sizes).logits
        theirs = theirs.double().eval()
        features = theirs.backbone(inputs.tensors)
        vectors = theirs.roi_heads.box_head(theirs.roi_heads.box_roi_pool(features, batch, inputs.image_sizes))
        expected = theirs.roi_heads.box_predictor(vectors)[0]
    torch.testing.assert_close(found, expected[:, [0, *detector.categories.ids]])
    assert [path.name for path in cache.glob("*.safetensors")] == [f"{Path(name).stem}.coco.safetensors"]
    cv2.imwrite("street.png", image.permute(1, 2, 0).numpy())
    predict.main(["--model", "coco", "street.png", "--device", "cpu", "--output", "found", "--workers", "0"])
    assert "1 image in" in capsys.readouterr().out and (tmp_path / "found" / "predictions.json").is_file()
    with pytest.raises(UserError, match=r"'cocoo'.*coco"):
        predict.main(["--model", "cocoo", "street.png"])


def test_coco_weights_exist_for_one_model_only():
    with pytest.raises(UserError, match="not for resnet18 with fpn"):
        detection.build("resnet18", 3, weights="coco")


@pytest.mark.usefixtures("narrow")
def test_the_file_of_a_residual_network_does_not_fit_a_plain_one(tmp_path: Path):
    small = {"fpn_channels": 8, "head_channels": 8}
    torch.save(detection.build("resnet18", 3, **small).state_dict(), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"of another backbone; the first is backbone\.body\.layer2\.0\.downsample"):
        detection.build("plain18", 3, weights=tmp_path / "model.pth", **small)


def test_the_file_of_another_detector_is_refused(twins):
    with pytest.raises(UserError, match="does not fit this detector"):
        detection.build("resnet18", 90, weights=twins[2])
    with pytest.raises(UserError, match="does not fit this detector"):
        detection.build("resnet50", 5, weights=twins[2])


PYRAMIDS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "plain18", "plain34")
CASES = [(name, neck) for name in PYRAMIDS for neck in ("fpn", "c4", "dc5")]
CASES += [(f"timm/{name}", "fpn") for name in ("convnext_atto", "efficientnet_b0", "regnety_002")]
CASES += [("timm/regnety_002", "c4"), ("timm/resnet18", "dc5"), ("torchvision/mobilenet_v3_large", "fpn")]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("name", "neck"), CASES)
def test_trains_one_step_with_a_gradient_in_every_parameter(name: str, neck: str):
    torch.manual_seed(0)
    model = detection.build(name, 2, neck=neck, norm="batch", **{**SMALL, "proposals": 10}).train()
    losses = model(images_of((64, 80), (72, 64)), targets_for(2))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    model.eval()
    with torch.inference_mode():
        (found,) = model(images_of((50, 70)))
    assert found["boxes"].shape[1] == 4


@pytest.mark.usefixtures("narrow")
def test_negatives_alone_train(coco):
    model = detection.build("resnet18", 2, **SMALL).train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model(images_of((64, 64)), [empty])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.grad is not None for p in model.parameters())


def a_target(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    boxes = torch.tensor([[4.0, 6, 40, 50], [1.0, 1, 9, 9]])
    return {"boxes": boxes, "labels": torch.tensor([1, 2]), "image_id": torch.tensor(77)} | changes


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"labels": torch.tensor([1, 0])}, "targets[1] (image 77): box 1: its label is 0; expected 1 to 2"),
        ({"labels": torch.tensor([3, 1])}, "targets[1] (image 77): box 0: its label is 3; expected 1 to 2"),
        ({"labels": torch.tensor([1, -1])}, "targets[1] (image 77): box 1: its label is -1"),
        ({"labels": torch.tensor([1])}, "targets[1] (image 77): has 2 boxes, but 1 label; give each box one label"),
        ({"labels": torch.tensor([1.0, 2.0])}, "targets[1] (image 77): `labels` is a tensor [2] of float32"),
        ({"boxes": torch.tensor([[4.0, 6, 40, 50], [1, 1, float("nan"), 9]])}, "box 1: is [1.0, 1.0, nan, 9.0]"),
        ({"boxes": torch.tensor([[4.0, 6, 4, 50], [1, 1, 2, 9]])}, "box 0: is [4.0, 6.0, 4.0, 50.0]"),
        ({"boxes": torch.zeros(2, 5)}, "targets[1] (image 77): `boxes` is a tensor [2, 5] of float32"),
    ],
)
def test_targets_that_cannot_be_learned_from_are_refused(changes: dict[str, torch.Tensor], text: str):
    with pytest.raises(UserError) as error:
        check_targets([a_target(), a_target(**changes)], 2)
    assert text in str(error.value)
    check_targets([a_target(), a_target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))], 2)


def test_the_loader_checks_targets_on_the_cpu_instead_of_the_model(monkeypatch: pytest.MonkeyPatch):
    wrong = a_target(labels=torch.tensor([1, 3]))
    with pytest.raises(UserError, match=r"targets\[0\] \(image 77\): box 1: its label is 3; expected 1 to 2"):
        collate([(images_of((64, 64))[0], wrong)], num_classes=2)
    model = detection.build("resnet18", 2, **SMALL).train()
    model.trust_targets()
    monkeypatch.setattr("detection.faster_rcnn.check_targets", lambda *_: pytest.fail("checked again"))
    model(images_of((64, 64)), [a_target()])
    model.eval().predict_with_losses(images_of((64, 64)), [a_target()])


def test_the_model_checks_its_targets():
    model = detection.build("resnet18", 2, **SMALL).train()
    assert model.num_classes == 2
    for call in (model, model.predict_with_losses):
        with pytest.raises(UserError, match="its label is 3"):
            call(images_of((64, 64)), [a_target(labels=torch.tensor([1, 3]))])


@pytest.mark.parametrize("short_side", [None, 64])
def test_a_thin_image_keeps_a_pixel(short_side: int | None):
    """20 x 3000 pixels at most 96 wide: the height would be 0.64 pixels. The box keeps a width too."""
    preprocessor = Preprocessor([0.5] * 3, [0.5] * 3, min_size=64, max_size=96).train()
    target = {"boxes": torch.tensor([[3.0, 0, 3.1, 20]])}
    if short_side is not None:
        target["short_side"] = torch.tensor(short_side)
    image, target = preprocessor.resize(torch.rand(3, 20, 3000), target)
    assert image.shape == (3, 1, 96) and torch.isfinite(image).all()
    # x = 3 * 96 / 3000 = 0.096; the width of 0.0032 pixels becomes 0.01; y from 0 to 20 / 20
    torch.testing.assert_close(target["boxes"], torch.tensor([[0.096, 0, 0.106, 1]]))


class Copies(TorchDispatchMode):
    """Records the names of the operations that write a new tensor of the size of an image."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.names = size, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        if found.numel() == self.size and all(found is not each for each in args):
            self.names.append(str(func))
        return found


@pytest.mark.parametrize(
    ("dtype", "operation"), [(torch.uint8, "aten._to_copy.default"), (torch.float32, "aten.sub.Tensor")]
)
def test_normalising_copies_an_image_once_and_leaves_the_original(dtype: torch.dtype, operation: str):
    image = torch.randint(0, 256, (3, 40, 60)).to(dtype)
    before = image.clone()
    with Copies(image.numel()) as copies:
        found = Preprocessor([0.5] * 3, [0.25] * 3, min_size=64, max_size=96).normalize(image)
    assert copies.names == [operation]
    assert torch.equal(image, before)
    scaled = before / 255 if dtype == torch.uint8 else before
    assert torch.equal(found, (scaled - 0.5) / 0.25)


def test_everything_follows_from_declared_features():
    model = detection.build("timm/convnext_atto", 2, fpn_channels=32)
    assert [info.name for info in model.backbone.feature_info] == ["p2", "p3", "p4", "p5", "p6"]
    assert [info.stride for info in model.backbone.feature_info] == [4, 8, 16, 32, 64]
    assert model.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    c4 = detection.build("resnet18", 2, neck="c4")
    assert c4.rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)
    assert c4.roi_heads.box_predictor.cls_score.in_features == 512  # width of conv5
    dc5 = detection.build("resnet50", 2, neck="dc5")
    assert [(info.stride, info.channels) for info in dc5.backbone.feature_info] == [(16, 2048)]


def test_detections_are_in_pixels_of_the_original_image(twins):
    ours = twins[1].eval()
    image = images_of((100, 300))[0].double() / 255
    with torch.inference_mode():
        (found,) = ours([image])
    assert found["boxes"][:, 2].max() <= 300
    assert found["boxes"][:, 2].max() > 150  # a box in pixels of the resized image would end further left


def test_norm_and_stages_can_be_frozen(tmp_path: Path):
    path = tmp_path / "resnet18.safetensors"
    save_file(backbones.build("resnet18", weights=None).state_dict(), path)
    for neck in ("fpn", "c4", "dc5"):
        model = detection.build("resnet18", 2, neck=neck, weights=path)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()), neck
        model.freeze_stages(2)
        frozen = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
        assert frozen == {"conv1", "layer1"}


def test_frozen_norm_needs_weights():
    with pytest.raises(UserError, match="norm 'frozen': cannot be combined with random weights"):
        detection.build("resnet18", 2, norm="frozen")


WRONG = {"neck": ("fpm", "unknown neck 'fpm': did you mean fpn"), "num_classes": (0, "whole number of at least 1")}
WRONG |= {"proposals": (0, "must be above 0"), "max_size": (5, "must not be below")}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str):
    value, text = WRONG[name]
    with pytest.raises(UserError, match=text):
        detection.build("resnet18", **{"num_classes": 2, name: value})


def test_build_takes_the_fields_of_its_settings_and_no_others():
    taken = inspect.signature(detection.build).parameters
    assert list(taken)[:2] == ["backbone", "num_classes"]
    for field in fields(DetectorSettings):
        assert taken[field.name].default == field.default
        assert f"{field.name}: " in str(detection.build.__doc__)
    with pytest.raises(UserError, match="min_sze"):
        detection.build("resnet18", 2, min_sze=64)


def test_largest_fraction_inside():
    """One box of 10x10 pixels is half inside a region, one is outside, one is completely inside."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [6, 1, 8, 3]])
    regions = torch.tensor([[5.0, 0, 30, 30], [90, 90, 95, 95]])
    assert largest_fraction_inside(boxes, regions).tolist() == [0.5, 0.0, 1.0]


def test_negatives_inside_ignored_regions_are_ignored():
    labels = [torch.tensor([0, 0, 1, -1]), torch.tensor([0])]
    boxes = [torch.tensor([[0.0, 0, 9, 9], [50, 50, 60, 60], [1, 1, 9, 9], [2, 2, 9, 9]]), torch.zeros(1, 4)]
    passed = ignore_negatives(labels, boxes, [{"ignore": torch.tensor([[0.0, 0, 20, 20]])}, {}])
    assert passed[0].tolist() == [-1, 0, 1, -1]  # a positive is not changed
    assert passed[1].tolist() == [0]


def test_negatives_are_ignored_from_half_of_their_area_inside_a_region():
    """Boxes 20 wide with 9, 10, 11 and 17 columns inside the region: 0.45, 0.5, 0.55 and 0.85 of their area."""
    model = detection.build("resnet18", 2, **SMALL).train()
    lefts = torch.tensor([49.0, 50, 51, 57])  # the region begins at x = 60
    boxes = torch.stack([lefts, torch.zeros(4), lefts + 20, torch.full((4,), 20.0)], dim=1)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    target = {**empty, "ignore": torch.tensor([[60.0, -5, 200, 25]])}
    labels, _ = model.rpn.assign_targets_to_anchors([boxes], [target])
    assert labels[0].tolist() == [0, -1, -1, -1]
    assert model.roi_heads.select_training_samples([boxes], [target])[0][0].tolist() == [[49, 0, 69, 20]]


def test_negatives_inside_a_crowd_are_not_sampled():
    """The left half of an image is a crowd, so no negative is sampled there."""
    model = detection.build("resnet18", 2, **SMALL).train()
    anchors = [torch.tensor([[0.0, 0, 16, 16], [40, 40, 56, 56]])]
    target = {"boxes": torch.zeros(0, 4), "ignore": torch.tensor([[0.0, 0, 32, 64]])}
    labels, _ = model.rpn.assign_targets_to_anchors(anchors, [target])
    assert labels[0].tolist() == [-1, 0]
    samples = model.roi_heads.select_training_samples(
        anchors, [{**target, "labels": torch.zeros(0, dtype=torch.int64)}]
    )
    assert samples[0][0].tolist() == [[40, 40, 56, 56]]


def test_a_crowd_over_the_whole_batch_leaves_finite_losses():
    model = detection.build("resnet18", 2, **SMALL).train()
    everywhere = torch.tensor([[-1e4, -1e4, 1e4, 1e4]])
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "ignore": everywhere}
    losses = model(images_of((64, 64)), [target])
    assert all(torch.isfinite(loss) for loss in losses.values())
