"""Shows where in an image a detector finds one detected object: ODAM (Zhao and Chan 2023), a Grad-CAM of instances.

Grad-CAM weights each channel of a feature map by its mean gradient, so it shows all objects of a class at once. The
gradient of one detection's score is zero outside the RoI of that detection. Multiplied with the features cell by cell,
it shows this detection alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.transform import resize_boxes
from torchvision.transforms.functional import gaussian_blur

from backbones.common.explanation import Explanation, normalised_heat
from backbones.common.images import Image
from backbones.errors import UserError, require_class
from detection.results import Detection
from detection.roi_heads import RoIHeads
from detection.trained import TrainedDetector

BLUR = 3  # cells: side of the window that smooths the gradient, which is noisy from cell to cell


def explain(model: TrainedDetector, image: Image, found: Detection, name: str | None = None) -> Explanation:
    """Return where a detector finds one detection, by the gradient of its score at the features that RoIs read.

        found = detector("street.jpg")
        explain(detector, "street.jpg", found[0]).plot().save("why.png")

    The detector scores the box of the detection once more, at its own image size. The map ends about one cell of the
    features outside the box, or covers the image for detectors with `context`. Each cell of the features, in turn,
    has seen more of the image than its own place.

    Args:
        image: the image in which the detection was found.
        found: the detection.
        name: another category, to see what in the box looks like it; by default the one of the detection.

    Raises:
        UserError: the image, `found` or the name cannot be used, the box is not in the image, or the model is an
            exported file.
    """
    if not isinstance(found, Detection):
        raise UserError(f"{type(found).__name__}: is no single detection; index the detections of the image: found[0]")
    name = found.name if name is None else name
    require_class(name, model.categories.names, f"name={name!r}")
    if not isinstance(model.model.roi_heads, RoIHeads):
        raise UserError(
            f"{model.trained.path}: is an exported file, which has no gradients; name the run that it is of"
        )
    pixels = model.read(image)
    height, width = pixels.shape[-2:]
    left, top, right, bottom = found.box
    if not (left < right and top < bottom and left < width and top < height and right > 0 and bottom > 0):
        raise UserError(f"box {found.box}: has no part of an image of {width}x{height} pixels; name a detection in it")
    logit, features, batch, inside = _score(model, pixels, found, model.categories.names.index(name) + 1)
    heat = _heat(logit, features, batch)
    heat = F.interpolate(heat[..., : inside[0], : inside[1]], size=(height, width), mode="bilinear")[0, 0]
    return Explanation(name, float(logit.detach()), normalised_heat(heat), model.view(image), found.box)


def _score(
    model: TrainedDetector, pixels: Tensor, found: Detection, label: int
) -> tuple[Tensor, Mapping[str, Tensor], tuple[int, int], tuple[int, int]]:
    """Return the logit of a box, the features that it depends on, and the sizes of the batch and of the image in it."""
    net = model.model
    with torch.no_grad():
        batch, _ = net.transform([pixels.to(model.device)])
        maps = net.backbone(batch.tensors)
    size, padded = batch.image_sizes[0], batch.tensors.shape[-2:]
    box = torch.tensor([found.box], device=model.device)
    box = resize_boxes(box, (pixels.shape[-2], pixels.shape[-1]), size)
    with torch.enable_grad():
        features = {key: each.detach().requires_grad_() for key, each in maps.items()}
        logit = net.roi_heads.score(features, [box], [size]).logits[0, label]
    return logit, features, (padded[0], padded[1]), size


def _heat(logit: Tensor, features: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
    """Return the sum over all features of gradient times value, where it is above 0, `[1, 1, *size]`."""
    gradients = torch.autograd.grad(logit, list(features.values()), allow_unused=True)
    heat = torch.zeros(1, 1, *size, device=logit.device)
    for values, gradient in zip(features.values(), gradients, strict=True):
        if gradient is None or not bool(gradient.any()):
            continue  # the RoI is read from another level
        window = [min(BLUR, side - 1 + side % 2) for side in gradient.shape[-1:-3:-1]]  # odd, and within the map
        smooth = gaussian_blur(gradient, window) if min(window) > 1 else gradient
        cells = (smooth * values.detach()).sum(1, keepdim=True).relu()
        heat += F.interpolate(cells, size=size, mode="bilinear")
    return heat
