"""Prediction: any size, tiles, scales, mirror images; and the figures counted from it."""

from __future__ import annotations

import resource

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as V

import segmentation
from backbones.errors import UserError
from segmentation.data.dataset import collate
from segmentation.metrics import LabelMetrics, format_table
from segmentation.predict import Predictor
from tools.benchmarks.peak import in_fresh_process


class Pixelwise(nn.Module):
    """A model without context: the class of a pixel is its brightest channel, in a tile as in the whole image."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": images.float()}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    model = segmentation.build("resnet18", 4, head="fcn8s", aux=False).train()
    with torch.no_grad():
        model(torch.randn(4, 3, 64, 64))  # running statistics of its own
    return model.eval()


def image(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_maps_have_their_images_sizes(net: nn.Module) -> None:
    images = [image(40, 60), image(40, 60, 1), image(33, 47)]
    found = Predictor(net)(images)
    assert [tuple(m.shape) for m in found] == [(40, 60), (40, 60), (33, 47)]
    with torch.no_grad():
        for each, labels in zip(images, found):
            assert torch.equal(labels, net(each[None])["out"][0].argmax(0).to(torch.uint8))


def test_bytes_and_floats_do_not_meet_in_a_batch(net: nn.Module) -> None:
    """A stack of both would take the bytes for normalised floats."""
    mixed = [image(40, 60), net.backbone.normalise(image(40, 60, 1)[None])[0]]
    predictor, masks = Predictor(net), [torch.zeros(40, 60, dtype=torch.uint8)] * 2
    expected = [predictor([each])[0] for each in mixed]
    targets = {"mask": masks, "index": torch.arange(2)}
    for found in (predictor(mixed), predictor.predict_with_losses(mixed, targets)[0]):
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    with pytest.raises(UserError, match="a batch contains both uint8 images and floating-point arrays"):
        collate([(each, {"mask": masks[0], "index": 0}) for each in mixed])


def test_a_tile_that_covers_the_image_changes_nothing(net: nn.Module) -> None:
    images = [image(40, 60), image(64, 64)]
    for whole, cut in zip(Predictor(net)(images), Predictor(net, tile=64)(images)):
        assert torch.equal(whole, cut)


@pytest.mark.parametrize("size", [(100, 37), (37, 100), (99, 131), (64, 200)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_tiles_give_a_net_without_context_what_the_whole_gives(size: tuple[int, int], overlap: float) -> None:
    pixels = image(*size)
    expected = pixels.float().argmax(0).to(torch.uint8)
    assert torch.equal(Predictor(Pixelwise(), tile=32, overlap=overlap)([pixels])[0], expected)


def test_scales_and_mirror_images_are_averaged(net: nn.Module) -> None:
    pixels = image(48, 64)[None]
    views = []
    with torch.no_grad():
        for mirrored in (False, True):
            seen = pixels.flip(-1) if mirrored else pixels
            larger = net(V.resize(seen, [72, 96], antialias=True))["out"]
            larger = F.interpolate(larger, size=(48, 64), mode="bilinear", align_corners=False)
            shares = [scores.softmax(1) for scores in (net(seen)["out"], larger)]
            views += [share.flip(-1) if mirrored else share for share in shares]
    found = Predictor(net, scales=(1.0, 1.5), flip=True).probabilities(pixels)
    torch.testing.assert_close(found, torch.stack(views).mean(0))


def test_min_size_only_changes_what_the_net_sees(net: nn.Module) -> None:
    seen = []
    handle = net.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[-2:])))
    found = Predictor(net, min_size=32)([image(64, 96)])
    handle.remove()
    assert seen == [(32, 48)] and found[0].shape == (64, 96)


@pytest.mark.parametrize(
    "options", [{"overlap": 1.0}, {"scales": ()}, {"scales": (0.0,)}, {"tile": -1}, {"tile": 8, "min_size": 8}]
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(UserError, match=r"expected|set one of them to 0"):
        Predictor(Pixelwise(), **options)


class Scores(torch.nn.Conv2d):
    """A model of 11 classes."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"out": super().forward(images.float())}


def segment_large() -> tuple[tuple[int, ...], int]:
    """Return the shape of the labels of a large image, and by how many bytes the peak of memory grew."""
    torch.set_num_threads(1)
    predictor = Predictor(Scores(3, 11, 1).eval(), tile=512, overlap=0.0)
    pixels = torch.zeros(3, 3000, 4000, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    labels = predictor([pixels])[0]
    return tuple(labels.shape), 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def test_a_large_image_is_segmented_in_bounded_memory() -> None:
    """4000x3000 pixels; the whole image's scores alone would take 4000 * 3000 * 11 * 4 bytes = 504 MiB."""
    found = in_fresh_process(segment_large)
    assert found is not None
    shape, grown = found
    assert shape == (3000, 4000)
    assert grown < 480 * 2**20


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    matrix = np.zeros((classes, classes), np.int64)
    for t, p in zip(truth.ravel(), found.ravel()):
        if t != 255:
            matrix[t, p] += 1
    return matrix


def test_figures_equal_a_count_by_hand() -> None:
    random = np.random.default_rng(0)
    names = ["a", "b", "c", "d", "nowhere"]
    metrics, total = LabelMetrics(names), np.zeros((5, 5), np.int64)
    for _ in range(5):
        truth = random.choice([0, 1, 2, 3, 255], (13, 17), p=[0.4, 0.3, 0.1, 0.1, 0.1]).astype(np.uint8)
        found = np.where(random.random(truth.shape) < 0.6, np.minimum(truth, 3), random.integers(0, 4, truth.shape))
        found = found.astype(np.uint8)
        metrics.update([torch.from_numpy(found)], {"mask": [torch.from_numpy(truth)]})
        total += confusion(truth, found, 5)
    results = metrics.compute()
    right, true, predicted = np.diag(total), total.sum(1), total.sum(0)
    iou = right[:4] / (true + predicted - right)[:4]
    assert results["mIoU"] == pytest.approx(iou.mean())
    assert results["pixel_accuracy"] == pytest.approx(right.sum() / total.sum())
    assert results["mean_accuracy"] == pytest.approx((right[:4] / true[:4]).mean())
    assert results["frequency_weighted_IoU"] == pytest.approx((true[:4] / total.sum() * iou).sum())
    classes = results["per_class"]
    assert {name: entry["IoU"] for name, entry in classes.items()} == {**dict(zip(names, iou)), "nowhere": None}
    assert [entry["pixels"] for entry in classes.values()] == true.tolist()
    assert [classes[name]["accuracy"] for name in names[:4]] == pytest.approx((right[:4] / true[:4]).tolist())
    assert results["absent"] == ["nowhere"] and results["images"] == 5
    assert np.array_equal(metrics.confusion(), total) and "confusion" not in results
    assert "1 of 5 classes without a pixel" in format_table(results)


def test_a_class_that_is_only_predicted_counts_as_missed() -> None:
    metrics = LabelMetrics(["a", "b"])
    metrics.update([torch.tensor([[0, 1]])], {"mask": [torch.tensor([[0, 0]])]})
    # a: 1 of 2 pixels; b: none of 1.
    assert metrics.compute()["per_class"] == {
        "a": {"IoU": 0.5, "accuracy": 0.5, "pixels": 2},
        "b": {"IoU": 0.0, "accuracy": None, "pixels": 0},
    }
    assert metrics.compute()["mIoU"] == 0.25


def test_states_of_several_processes_add_up() -> None:
    random = np.random.default_rng(1)
    maps = [torch.from_numpy(random.integers(0, 3, (2, 9, 8)).astype(np.uint8)) for _ in range(5)]
    alone, parts = LabelMetrics("abc"), [LabelMetrics("abc") for _ in range(3)]
    for place, (truth, found) in enumerate(maps):
        for metrics in (alone, parts[place % 2]):  # the third process has no image
            metrics.update([found], {"mask": [truth]})
    parts[0].merge([part.state() for part in parts])
    assert parts[0].compute() == alone.compute()


def test_nothing_to_measure_gives_no_figures() -> None:
    results = LabelMetrics(["a", "b"]).compute()
    assert results["mIoU"] is None and results["absent"] == ["a", "b"]
    lines = format_table(results).splitlines()
    assert [line.split()[-1] for line in lines[1:7]] == ["n/a"] * 6 and lines[7].startswith("2 of 2 classes without a")
    found = torch.zeros(1, 4, 4, dtype=torch.uint8)
    some = LabelMetrics(["a", "b"])
    some.update([found], {"mask": [found]})
    lines = format_table(some.compute()).splitlines()
    assert [line.split()[-1] for line in lines[5:7]] == ["100.00%", "n/a"] and lines[1].split()[-1] == "100.00%"


def test_predicted_maps_are_kept_on_request() -> None:
    maps = [torch.tensor([[0, 1], [2, 200]], dtype=torch.uint8), torch.tensor([[1, 1]], dtype=torch.uint8)]
    targets = {"mask": [torch.zeros(2, 2, dtype=torch.uint8), torch.ones(1, 2, dtype=torch.uint8)]}
    parts = [LabelMetrics([str(k) for k in range(201)], keep=True) for _ in range(2)]
    for number, part in enumerate(parts):
        mask = [targets["mask"][number]]
        part.update([maps[number]], {"mask": mask, "index": torch.tensor([7 + number])})
    parts[0].merge([part.state() for part in parts])
    decoded = {index: cv2.imdecode(np.frombuffer(png, np.uint8), -1) for index, png in parts[0].maps.items()}
    assert {index: each.tolist() for index, each in decoded.items()} == {7: maps[0].tolist(), 8: maps[1].tolist()}


def test_the_table_of_metrics() -> None:
    metrics = LabelMetrics(["a", "b"])
    metrics.update([torch.tensor([[0, 1, 1, 1]])], {"mask": [torch.tensor([[0, 0, 1, 255]])]})
    # a: 1 of 2 pixels; b: 1 of 2. Two of three labelled pixels are right; recalls are 1 / 2 and 1.
    lines = ["1 image", "mIoU  50.00%", "pixel_accuracy  66.67%", "mean_accuracy  75.00%"]
    lines += ["frequency_weighted_IoU  50.00%", "a  50.00%", "b  50.00%"]
    assert [line.split() for line in format_table(metrics.compute()).splitlines()] == [line.split() for line in lines]
