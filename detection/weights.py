"""Weights of whole detectors: torchvision's COCO file, files of its layout, and our own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from backbones import Backbone
from backbones.errors import UserError
from backbones.weights import LoadReport, fetch, read_state
from detection.annotations import CategoryMap

COCO_URL = "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
COCO_FILE = COCO_URL.rsplit("/", 1)[1]
# The 80 category ids of COCO lie in 1..90; row k of a 91-way predictor is category id k.
COCO_ROWS = 91
PREDICTOR = "roi_heads.box_predictor."


def is_detector(weights: str | os.PathLike[str]) -> bool:
    """Whether `weights` means a whole detector: "coco", or a file with RoI heads in it."""
    if weights == "coco":
        return True
    path = Path(weights)
    return path.is_file() and any(name.startswith("roi_heads.") for name in read_state(path))


def read_detector(weights: str | os.PathLike[str], backbone: str | Backbone, neck: str) -> dict[str, Tensor]:
    """The state dict that `weights` means.

    Raises:
        UserError: for "coco" with a net that nobody publishes, or a file that cannot be had.
    """
    if weights != "coco":
        return read_state(Path(weights))
    name = backbone if isinstance(backbone, str) else backbone.name
    if (name, neck) != ("resnet50", "fpn"):
        raise UserError(f"weights 'coco': published for resnet50 with fpn, not for {name} with {neck}; name a file")
    return read_state(fetch(COCO_URL, what="fasterrcnn_resnet50_fpn"))


def load_detector(
    model: nn.Module, state: dict[str, Tensor], *, source: str, category_ids: Sequence[int] | None = None
) -> LoadReport:
    """Fill a detector; a 91-way COCO predictor is mapped to the data set's categories.

    Args:
        category_ids: ids of the model's labels 1..K.

    Raises:
        UserError: where the predictor has other classes than the model, or anything else is missing or differs in
            shape: half a detector detects nothing.
    """
    rows = len(model.state_dict()[f"{PREDICTOR}cls_score.bias"])
    state = _mapped_predictor(state, rows, source=source, category_ids=category_ids)
    own = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state]
    reshaped = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or reshaped:
        raise UserError(
            f"{source}: does not fit this detector ({len(missing)} entries missing, {len(reshaped)} of another shape, "
            f"such as {(missing + reshaped)[0]}); take the backbone, neck and widths that it was made with"
        )
    model.load_state_dict({name: value for name, value in state.items() if name in model.state_dict()}, strict=False)
    if source == "coco" or Path(source).name == COCO_FILE:
        _use_published_eps(model)
    unexpected = tuple(name for name in state if name not in own and not name.endswith("num_batches_tracked"))
    return LoadReport(source=source, matched=tuple(own), missing=(), unexpected=unexpected, reshaped=())


def require_same_categories(weights: str | os.PathLike[str], categories: CategoryMap) -> None:
    """Refuse a detector of ours that was trained on other categories than the data's.

    Raises:
        UserError: showing where the two differ.
    """
    path = Path(weights)
    if path.suffix != ".safetensors" or not path.is_file():
        return
    with safe_open(path, framework="pt") as file:
        trained = json.loads((file.metadata() or {}).get("meta", "{}"))
    if "category_ids" in trained:
        before = CategoryMap(tuple(trained["category_ids"]), tuple(trained["category_names"]))
        before.require_same(categories, here=str(path), there="the data")


def _mapped_predictor(
    state: dict[str, Tensor], rows: int, *, source: str, category_ids: Sequence[int] | None
) -> dict[str, Tensor]:
    """The state with the predictor's rows picked for background and `category_ids`."""
    given = state[f"{PREDICTOR}cls_score.weight"].shape[0]
    if given != COCO_ROWS or category_ids is None:
        if given != rows:
            raise UserError(
                f"{source}: predicts {given - 1} classes, this detector {rows - 1}; use the same categories"
            )
        return state
    if max(category_ids) >= COCO_ROWS:
        raise UserError(f"{source}: predicts COCO's categories (ids to 90), the data set has id {max(category_ids)}")
    picked = torch.tensor([0, *category_ids])
    boxes = (picked[:, None] * 4 + torch.arange(4)).flatten()
    places = {"cls_score": picked, "bbox_pred": boxes}
    return {
        name: value[places[name.split(".")[2]]] if name.startswith(PREDICTOR) else value
        for name, value in state.items()
    }


def _use_published_eps(model: nn.Module) -> None:
    """The published COCO file was trained with frozen norm without epsilon; torchvision sets the same."""
    for module in model.modules():
        if hasattr(module, "running_var"):
            vars(module)["eps"] = 0.0
