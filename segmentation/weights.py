"""Loads weights of whole segmentation models: torchvision's COCO files, files with the same entries, and ours."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Size, Tensor, nn

from backbones import Backbone
from backbones.errors import UserError
from backbones.weights.classes import describe_moved, reorder_classes, rows_by_name
from backbones.weights.files import read_meta, read_state
from backbones.weights.names import without_prefix
from backbones.weights.published import fetch
from backbones.weights.report import LoadReport
from backbones.weights.sources import is_weights_file

BASE = "https://download.pytorch.org/models/"
COCO_FILES = {"resnet50": "fcn_resnet50_coco-1167a1af.pth", "resnet101": "fcn_resnet101_coco-7ecb50ca.pth"}
CLASSIFIER = re.compile(r"((?:.*?\.)??)classifier\.")  # of a whole model, which may have a prefix
HEAD = ("classifier.", "fusion.", "aux_classifier.")


def read_segmenter(weights: str | os.PathLike[str] | None, backbone: str | Backbone) -> dict[str, Tensor] | None:
    """Read the state dict of a whole segmentation model, or return None if `weights` is for a backbone or None.

    Raises:
        UserError: "coco" with a backbone for which no weights are published, or a file that cannot be read.
    """
    if weights != "coco":
        state = read_state(weights) if weights is not None and is_weights_file(weights) else {}
        return state if _is_segmenter(state) else None
    name = backbone if isinstance(backbone, str) else backbone.name
    if name not in COCO_FILES:
        raise UserError(
            f"weights 'coco': are published for {' and '.join(COCO_FILES)}, not for {name}; name a weights file instead"
        )
    return read_state(fetch(BASE + COCO_FILES[name], what=f"fcn_{name}"))


def _is_segmenter(state: dict[str, Tensor]) -> bool:
    """Return whether entries are those of a backbone and a convolutional head beside it, under any prefix."""
    heads = {match[1] for name, value in state.items() if value.ndim == 4 and (match := CLASSIFIER.match(name))}
    return any(name.startswith(f"{prefix}backbone.") for prefix in heads for name in state)


def fill(model: nn.Module, state: dict[str, Tensor], *, num_classes: int, source: str) -> LoadReport:
    """Load the state dict of a whole segmentation model.

    The head's weights for another number of classes stay random, and so does an auxiliary head that the file lacks; the
    report lists both as missing. All other entries must fit.

    Args:
        num_classes: number of classes of the model.
        source: name of the weights for the report and errors.

    Raises:
        UserError: if any other entry is missing or has another shape.
    """
    entries = model.state_dict()
    own = {name: value for name, value in entries.items() if not name.endswith("num_batches_tracked")}
    state = without_prefix(own, state)
    absent = [name for name in own if name not in state]
    reshaped = [name for name in own if name in state and state[name].shape != own[name].shape]
    random = [name for name in reshaped if _per_class(name, own[name].shape, state[name].shape, num_classes)]
    random += [name for name in absent if name.startswith("aux_classifier.")]
    unexpected = [name for name in state if name not in own and not name.endswith("num_batches_tracked")]
    wrong = [name for name in (*absent, *reshaped) if name not in random]
    # A plain model would accept a residual model's file without its projections, and FCN-32s a file of FCN-8s.
    wrong += [name for name in unexpected if name.startswith(("backbone.", "fusion."))]
    if wrong:
        raise UserError(
            f"{source}: does not fit this model ({len(wrong)} entries missing, left over or of another "
            f"shape, such as {wrong[0]}); use the backbone and head that the file was trained with"
        )
    fitting = {name: value for name, value in state.items() if name in entries and name not in random}
    model.load_state_dict(fitting, strict=False)
    return LoadReport(
        source=source,
        matched=tuple(name for name in own if name not in random),
        missing=tuple(random),
        unexpected=tuple(unexpected),
        reshaped=(),
    )


def match_classes(model: nn.Module, classes: Sequence[str], larger: Callable[[], nn.Module], source: str) -> None:
    """Put the classes of a head that was loaded from a file into the order of `classes`.

    Args:
        model: the model with its `load_report`.
        classes: names of the model's classes by number.
        larger: builds the same model with one more class.
        source: the weights file.
    """
    rows, report = rows_by_name(read_meta(source).get("classes"), classes), vars(model)["load_report"]
    if rows is None:
        return
    head = {name: value for name, value in model.state_dict().items() if name.startswith(HEAD)}
    # Entries that are not in the file stay random, whatever their order.
    head = {name: value for name, value in head.items() if name in report.matched}
    with torch.random.fork_rng(devices=[]):
        shapes = larger().state_dict()
    if reorder_classes(head, shapes, rows):
        vars(model)["load_report"] = replace(report, moved=describe_moved(classes, rows))


def refuse_swapped(source: str, classes: Sequence[str] | None) -> None:
    """Refuse a file of a model with one output whose two classes are those of the data in the other order.

    Raises:
        UserError: the output would mean the other class.
    """
    known = read_meta(source).get("classes") if Path(source).is_file() else None
    if classes is not None and known and list(known) == list(reversed(classes)):
        raise UserError(
            f"{source}: its one output tells {known[1]} from {known[0]}, but the data list these classes in the other "
            "order; list them in the order of the weights"
        )


def _per_class(name: str, own: Size, given: Size, num_classes: int) -> bool:
    """Return whether two shapes, of a head's tensor in file and model, differ only in the number of classes."""
    same_rank = name.startswith(HEAD) and len(own) == len(given)
    return same_rank and all(a in (b, num_classes) for a, b in zip(own, given, strict=True))
