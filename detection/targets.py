"""Checks the targets of a batch, which a data set or a user's own code made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backbones.errors import UserError, counted
from detection.strips import strips_of_bitmaps

Target = dict[str, Tensor]


def check_targets(targets: Sequence[Target], num_classes: int) -> None:
    """Refuse targets that a detector cannot learn from: they would give wrong losses, or NaN, without an error.

    The values of all images are checked together, so that a GPU is waited for once.

    Args:
        targets: `boxes` `[N, 4]` xyxy and `labels` `[N]` of each image.
        num_classes: labels are 1 to this number.

    Raises:
        UserError: naming image and box of the first wrong value.
    """
    for index, target in enumerate(targets):
        _check_shapes(target, index)
    boxes, labels = (torch.cat([target[name].detach() for target in targets]) for name in ("boxes", "labels"))
    good = (labels >= 1) & (labels <= num_classes) & torch.isfinite(boxes).all(dim=1)
    good &= (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if not bool(good.all()):
        _refuse_first(targets, good.cpu(), num_classes)


def with_strips(targets: Sequence[Target], images: Sequence[Tensor]) -> list[Target]:
    """Return targets with the objects' masks as `strips` `[S, 5]`, made from `masks` `[N, H, W]` where absent.

    Raises:
        UserError: a target has no masks, or they do not fit its boxes or its image.
    """
    found = []
    for index, (target, image) in enumerate(zip(targets, images, strict=True)):
        rest = {name: value for name, value in target.items() if name != "masks"}
        if "strips" not in target:
            rest["strips"] = strips_of_bitmaps(_checked_masks(target, image, index))
        found.append(rest)
    return found


def _checked_masks(target: Target, image: Tensor, index: int) -> Tensor:
    masks, expected = target.get("masks"), (len(target["boxes"]), image.shape[-2], image.shape[-1])
    if not isinstance(masks, Tensor) or masks.shape != expected:
        raise UserError(
            f"{_name(target, index)}: `masks` is {_described(masks)}; expected a tensor {list(expected)}, one mask of "
            "the image's size for each box"
        )
    return masks


def _check_shapes(target: Target, index: int) -> None:
    """Refuse a target whose tensors have wrong shapes or types. Reads no values of a good target."""
    boxes, labels = target.get("boxes"), target.get("labels")
    problem = None
    if not isinstance(boxes, Tensor) or boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        problem = f"`boxes` is {_described(boxes)}; expected a float tensor [N, 4] of x1, y1, x2, y2"
    elif not isinstance(labels, Tensor) or labels.ndim != 1 or labels.dtype != torch.int64:
        problem = f"`labels` is {_described(labels)}; expected an int64 tensor [N]"
    elif len(boxes) != len(labels):
        problem = f"has {counted(len(boxes), 'box')}, but {counted(len(labels), 'label')}; give each box one label"
    if problem:
        raise UserError(f"{_name(target, index)}: {problem}")


def _refuse_first(targets: Sequence[Target], good: Tensor, num_classes: int) -> None:
    start = 0
    for index, target in enumerate(targets):
        part = good[start : start + len(target["labels"])]
        start += len(part)
        if part.all():
            continue
        at = int((~part).nonzero()[0])
        label, box = int(target["labels"][at]), [round(value, 3) for value in target["boxes"][at].tolist()]
        name = f"{_name(target, index)}: box {at}"
        if not 1 <= label <= num_classes:
            raise UserError(f"{name}: its label is {label}; expected 1 to {num_classes}, because 0 is the background")
        raise UserError(f"{name}: is {box}; expected finite x1, y1, x2, y2 with x1 < x2 and y1 < y2")


def _name(target: Target, index: int) -> str:
    """Return a name of a target for messages: its position in the batch, and its image id if there is one."""
    return f"targets[{index}]" + (f" (image {int(target['image_id'])})" if "image_id" in target else "")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return "missing" if value is None else f"a {type(value).__name__}"
