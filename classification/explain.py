"""Shows where in an image a classifier finds a class: Grad-CAM (Selvaraju et al. 2017, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.common.explanation import Explanation, normalised_heat
from backbones.common.images import Image
from backbones.errors import UserError, require_class
from classification.trained import TrainedClassifier


def explain(model: TrainedClassifier, image: Image, name: str | None = None) -> Explanation:
    """Return where a classifier finds a class in an image, by the gradient of its score at the last feature map.

    Args:
        image: a path, a PIL image, an array or a tensor. Of several crops, the first is used.
        name: the class; by default the most probable one.

    Raises:
        UserError: the image or the name cannot be used, or the model is a library's whole model without feature maps.
    """
    if not model.model.backbone.feature_info:
        raise UserError(
            f"{model.model.backbone.name}: is a library's whole model or an exported file, whose features are not known"
        )
    view = model.read(image)[0]
    logits, features = _forward(model, view[None].to(model.device))
    if name is not None:
        require_class(name, model.classes, f"name={name!r}")
    index = int(logits[0].argmax()) if name is None else model.classes.index(name)
    (gradient,) = torch.autograd.grad(logits[0, index], features)
    # Weight each channel by its mean gradient; keep what raises the score (equations 1 and 2).
    weights = gradient.mean((2, 3), keepdim=True)
    heat = (weights * features.detach()).sum(1, keepdim=True).relu()
    heat = F.interpolate(heat, size=view.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    score = float(logits[0, index].detach())
    return Explanation(model.classes[index], score, normalised_heat(heat), _pixels(model, view))


def _forward(model: TrainedClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits and the last feature map, of which the gradient can be taken."""
    kept: list[Tensor] = []
    last = model.model.backbone.feature_info[-1].name

    def keep(module: Any, given: Any, features: dict[str, Tensor]) -> dict[str, Tensor]:
        kept.append(features[last].detach().requires_grad_())
        return {**features, last: kept[0]}

    hook = model.model.backbone.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            return model.model(images), kept[0]
    finally:
        hook.remove()


def _pixels(model: TrainedClassifier, view: Tensor) -> np.ndarray:
    """Return a view `[C, h, w]`, uint8 or normalised, as pixels `[h, w, 3]` uint8."""
    if view.dtype != torch.uint8:
        mean, std = (
            view.new_tensor(each)[:, None, None] for each in (model.model.backbone.mean, model.model.backbone.std)
        )
        view = ((view * std + mean).clamp(0, 1) * 255).round().byte()
    pixels = view.permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2))
