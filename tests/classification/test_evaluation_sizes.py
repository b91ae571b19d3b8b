"""With torchvision's state dict the classification script gives torchvision's own predictions, from file to percent."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tolerances import rounding, written
from torch import Tensor, nn
from torchvision.transforms import functional as F
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from backbones.base import IMAGENET_MEAN, IMAGENET_STD
from tools import train_cls

CROP, RESIZE = 48, 55
CLASSES = ("ant", "bee", "cat", "dog")
# Height and width. The margin around the crop is odd, so that the centre of the mirrored image is not the mirrored
# centre; torchvision's ten crops use the centre of the mirrored image.
SIZES = ((90, 60), (60, 120), (100, 100), (80, 120), (150, 200), (75, 50), (61, 61), (240, 80))
# One of our models, and a whole model of torchvision that undoes ImageNet's normalisation inside.
NETS = ("resnet18", "torchvision/googlenet")
# predictions.csv rounds to four digits, and our normalisation rounds differently from torchvision's.
ROUNDED = written(4) + rounding(512 * 9, layers=20)
Net = tuple[str, nn.Module, Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two JPEGs a class: waves of different pitch and colour under noise, of the sizes above."""
    root, random = tmp_path_factory.mktemp("published") / "data", np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        folder = root / "val" / CLASSES[number % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[:height, :width]
        wave = np.sin((x + number * y) / (2 + number)) * 80 + 128
        image = wave[..., None] * random.uniform(0.2, 1, 3) + random.normal(0, 15, (height, width, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return root


@pytest.fixture(scope="module", params=NETS)
def net(request: pytest.FixtureRequest, data: Path) -> Net:
    """A name for the command, a random model of torchvision with different logits for the images, and its file."""
    torch.manual_seed(0)
    arch = request.param.split("/")[-1]
    options = {"transform_input": True, "init_weights": False} if arch == "googlenet" else {}
    model = torchvision.models.get_model(arch, weights=None, num_classes=len(CLASSES), **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    images = torch.stack([reference(path) for path in files(data)])
    with torch.no_grad():
        for _ in range(2):
            model.train()(images + torch.randn(images.shape))  # statistics of these few alone would amplify roundings
        spread_logits(model.eval(), images)
    file = data.parent / f"{arch}.pth"
    torch.save(model.state_dict(), file)
    return request.param, model, file


def spread_logits(model: nn.Module, images: Tensor) -> None:
    """Scale and shift the last layer so that the logits of each class have mean 0 and deviation 2 over the images."""
    logits = model(images)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    scale = 2 / logits.std(0)
    last.bias.copy_((last.bias - logits.mean(0)) * scale)
    last.weight.mul_(scale[:, None])


def reference(path: Path) -> Tensor:
    """Prepare a decoded image with torchvision's transforms of evaluation, on bytes."""
    steps = v2.Compose([v2.Resize(RESIZE, antialias=True), v2.CenterCrop(CROP)])
    return normalise(steps(decoded(path)))


def decoded(path: Path) -> Tensor:
    return F.pil_to_tensor(Image.open(path))


def files(data: Path) -> list[Path]:
    return sorted((data / "val").rglob("*.jpg"))


def probabilities(model: nn.Module, views: list[Tensor]) -> Tensor:
    """Mean over views `[3, h, w]` of the class probabilities `[classes]`."""
    with torch.no_grad():
        return torch.stack([model(view[None])[0].softmax(0) for view in views]).mean(0)


def normalise(image: Tensor) -> Tensor:
    return F.normalize(image / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))


def words(data: Path, net: Net, folder: Path, *more: Any) -> list[str]:
    """Return the command line of the script."""
    name, _, file = net
    sizes = ("--crop-size", CROP, "--resize-size", RESIZE)
    common = ("--precision", "fp32", "--workers", 0, "--threads", 1, "--output", folder)
    given = ("--eval-only", "--data", data, "--backbone", name, "--weights", file)
    return [*map(str, (*given, *sizes, *common, *more))]


def predictions(folder: Path) -> list[dict[str, str]]:
    """Return the predictions of the script, in the order of the image files."""
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows(script, data: Path, net: Net, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Predictions from center crops, made in a process of their own as users start it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = script("train_cls.py", *words(data, net, folder), cwd=folder.parent, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return predictions(folder)


def require_equal(rows: list[dict], wanted: list[Tensor], within: list[float] | None = None) -> None:
    """Refuse another class, or a confidence that is further off than rounded; and images that are all of one class.

    If two probabilities may be off by `within` each, the class of either may be predicted when they are twice as close.
    """
    assert len({row["predicted"] for row in rows}) > 1
    for row, expected, tolerance in zip(rows, wanted, within or [ROUNDED] * len(rows), strict=True):
        predicted = float(expected[CLASSES.index(row["predicted"])])
        assert predicted >= float(expected.max()) - 2 * tolerance
        assert float(row["confidence"]) == pytest.approx(predicted, abs=tolerance)


def test_center_crops_are_torchvisions(data: Path, net: Net, rows: list[dict[str, str]]) -> None:
    assert [Path(row["image"]).name for row in rows] == [path.name for path in files(data)]
    assert [row["class"] for row in rows] == [path.parent.name for path in files(data)]
    require_equal(rows, [probabilities(net[1], [reference(path)]) for path in files(data)])


@pytest.mark.parametrize("net", NETS[:1], indirect=True)
def test_predictions_are_those_over_an_image_folder(data: Path, net: Net, rows: list[dict[str, str]]) -> None:
    """By PIL, as torchvision's own evaluation script reads images."""
    preset = ImageClassification(crop_size=CROP, resize_size=RESIZE)
    folder = torchvision.datasets.ImageFolder(str(data / "val"), transform=preset)
    assert [Path(path) for path, _ in folder.samples] == files(data)
    images = [image for image, _ in folder]
    # PIL and torchvision's kernel for bytes round differently: pixels differ by at most 1 of 255, on some CPUs a fifth
    # of them. How much that changes the probabilities of this random model is measured.
    byte = 1 / (255 * min(IMAGENET_STD)) + 3 * rounding(1, layers=2)  # normalised values are below 3
    ours = [reference(path) for path in files(data)]
    assert all((image - other).abs().max() <= byte for image, other in zip(images, ours, strict=True))
    wanted, found = ([probabilities(net[1], [image]) for image in each] for each in (images, ours))
    changes = [float((one - other).abs().max()) for one, other in zip(wanted, found, strict=True)]
    require_equal(rows, wanted, [ROUNDED + change for change in changes])


@pytest.mark.parametrize("net", NETS[:1], indirect=True)
def test_ten_crops_are_torchvisions(data: Path, net: Net, tmp_path: Path) -> None:
    train_cls.main(words(data, net, tmp_path / "run", "--test-crops", "ten"))
    ten = v2.Compose([v2.Resize(RESIZE, antialias=True), v2.TenCrop(CROP)])
    views = [[normalise(view) for view in ten(decoded(path))] for path in files(data)]
    assert {len(ten) for ten in views} == {10}
    require_equal(predictions(tmp_path / "run"), [probabilities(net[1], ten) for ten in views])


@pytest.mark.parametrize("net", NETS[:1], indirect=True)
def test_multiscale_is_the_whole_picture_at_five_sizes(data: Path, net: Net, tmp_path: Path) -> None:
    """Table 4's 224, 256, 384, 480 and 640 for crops of 224 are 48, 54.9, 82.3, 102.9 and 137.1 for those of 48."""
    train_cls.main(words(data, net, tmp_path / "run", "--test-crops", "multiscale"))
    wanted = []
    for path in files(data):
        scaled = [v2.functional.resize(decoded(path), [side], antialias=True) for side in (48, 55, 82, 103, 137)]
        views = [normalise(view) for image in scaled for view in (image, image.flip(-1))]
        wanted.append(probabilities(net[1], views))
    require_equal(predictions(tmp_path / "run"), wanted)
