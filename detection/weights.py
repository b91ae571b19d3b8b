"""Loads weights of whole detectors: torchvision's COCO file, files with the same entries, and our own files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from backbones import Backbone
from backbones.common.files import JsonObject
from backbones.errors import UserError
from backbones.norm import set_norm_eps
from backbones.weights.files import read_meta, read_names, read_state
from backbones.weights.names import without_prefix
from backbones.weights.published import fetch
from backbones.weights.report import LoadReport
from backbones.weights.sources import is_weights_file
from detection.data.annotations import CategoryMap

COCO_URL = "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
COCO_MASKS_URL = "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
COCO_FILES = tuple(url.rsplit("/", 1)[1] for url in (COCO_URL, COCO_MASKS_URL))
COCO_V2_URL = "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"
COCO_V2_MASKS_URL = "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
# The 80 category ids of COCO lie in 1..90; row k of a 91-way predictor is category id k.
COCO_ROWS = 91
ROI_HEADS = re.compile(r"(?:.*\.)?roi_heads\.")  # entries of a detector, which may have a prefix
LATER_HEADS = re.compile(r"(?:.*\.)?roi_heads\.later_heads\.")  # entries of a cascade
# Entries of detectron2's and MMDetection's detectors, whose heads have other layers than ours.
OTHER_DETECTOR = re.compile(
    r"(?:.*\.)?(?:proposal_generator\.|backbone\.bottom_up\.|rpn_head\.|roi_head\.|bbox_head\.)"
)
VERSION_1 = "roi_heads.box_head.fc6.weight"  # an entry that the published detectors of version 2 lack
PREDICTOR = "roi_heads.box_predictor."
ROW = f"{PREDICTOR}row of "  # and the name of a category, which stays random
LAYERS = (("cls_score", 1), ("bbox_pred", 4))  # of a predictor, with the rows of a class
MASK_BRANCH = ("roi_heads.mask_head.", "roi_heads.mask_predictor.")
MASK_ROWS = "roi_heads.mask_predictor.mask_fcn_logits"
# Files of torchvision before 0.14, the published COCO one among them, number each convolution once less.
OLD_CONVOLUTION = re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+|rpn\.head\.conv(?P<rpn>))\.(weight|bias)$")
OLD_MASK_CONVOLUTION = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d+)\.")


def read_detector(
    weights: str | os.PathLike[str] | None,
    backbone: str | Backbone,
    neck: str,
    *,
    masks: bool = False,
    weights_from: str | None = None,
    version: str = "v1",
) -> dict[str, Tensor] | None:
    """Read the state dict of a whole detector, or return None if `weights` is None or names weights of a backbone.

    Args:
        masks: whether the detector has a mask branch. "coco" then means the Mask R-CNN.
        weights_from: program that made the file. Of detectors of other programs, only the backbone is loaded.
        version: v1 or v2 of the published detector.

    Raises:
        UserError: weights are "coco" but not published for this model, or the file cannot be read.
    """
    if weights != "coco":
        names = read_names(weights) if weights is not None and is_weights_file(weights) else []
        if any(OTHER_DETECTOR.match(name) for name in names):
            _require_source(str(weights), weights_from)
            return None
        return read_state(weights) if weights is not None and any(ROI_HEADS.match(name) for name in names) else None
    name = backbone if isinstance(backbone, str) else backbone.name
    if (name, neck) != ("resnet50", "fpn"):
        raise UserError(
            f"weights 'coco': are published for resnet50 with fpn, not for {name} with {neck}; name a weights file "
            "instead"
        )
    second = version == "v2"
    if masks:
        url, what = (COCO_V2_MASKS_URL if second else COCO_MASKS_URL), "maskrcnn_resnet50_fpn"
    else:
        url, what = (COCO_V2_URL if second else COCO_URL), "fasterrcnn_resnet50_fpn"
    return read_state(fetch(url, what=f"{what}_v2" if second else what))


def have_one_box_head(weights: str | os.PathLike[str]) -> bool:
    """Return whether weights are those of a whole detector with one box head: "coco", or a file with its entries.

    Raises:
        UserError: the file cannot be read.
    """
    names = read_names(weights) if weights != "coco" and is_weights_file(weights) else []
    if any(OTHER_DETECTOR.match(name) or LATER_HEADS.match(name) for name in names):
        return False
    return weights == "coco" or any(ROI_HEADS.match(name) for name in names)


def _require_source(file: str, weights_from: str | None) -> None:
    """Refuse the file of another program's detector unless its program is named."""
    if weights_from is None:
        raise UserError(
            f"{file}: is a whole detector of detectron2 or MMDetection, whose heads have other layers; add "
            "--weights-from detectron2 (mmdetection, or caffe for its style caffe) to load its backbone"
        )


def load_detector(
    model: nn.Module, state: dict[str, Tensor], *, source: str, categories: CategoryMap | None = None
) -> LoadReport:
    """Load a state dict into a detector.

    The predictor is loaded row by row if the file's categories are known: our files name them, and a predictor of 91
    rows is COCO's. Categories match by name, or by id and name if a name is not unique. Rows of other categories stay
    random and are reported as missing. A mask branch that the file lacks stays random too. All other entries must fit.

    Args:
        source: "coco", or the file of the state dict.
        categories: of the model's labels 1..K. None loads the predictor as it is.

    Raises:
        UserError: an entry outside the predictor is missing or has another shape. Without it, the detector would detect
            nothing.
    """
    entries = model.state_dict()
    own = {name: value for name, value in entries.items() if not name.endswith("num_batches_tracked")}
    meta = read_meta(source)
    state = without_prefix(own, state, _modern)
    known = _known_categories(state, meta)
    state, random = _mapped_predictor(state, own, known, categories)
    state, branch = _with_mask_branch(state, own)
    missing = [name for name in own if name not in state]
    reshaped = [name for name in own if name in state and state[name].shape != own[name].shape]
    unexpected = [name for name in state if name not in own and not name.endswith("num_batches_tracked")]
    # The file of a residual network has all entries of a plain one, and its projections besides.
    foreign = [name for name in unexpected if name.startswith("backbone.")]
    if missing or reshaped or foreign:
        raise UserError(
            f"{source}: does not fit this detector ({len(missing)} entries missing, {len(reshaped)} of "
            f"another shape, {len(foreign)} of another backbone; the first is "
            f"{(missing + reshaped + foreign)[0]}); use the backbone, neck, --version, widths, --context, "
            "--cascade, --class-agnostic-boxes and --class-agnostic-masks that the file was trained with"
        )
    model.load_state_dict({name: value for name, value in state.items() if name in entries}, strict=False)
    # The published COCO files of version 1 were trained with frozen batch norm of epsilon 0. Fine-tuned models keep it.
    first = source == "coco" and VERSION_1 in state
    eps = 0.0 if first or Path(source).name in COCO_FILES else meta.get("norm_eps")
    if eps is not None:
        set_norm_eps(model, eps)
    return LoadReport(
        source=source,
        matched=tuple(name for name in own if name not in branch),
        missing=(*random, *branch),
        unexpected=tuple(unexpected),
        reshaped=(),
        moved=_moved(known, categories),
    )


def _modern(name: str) -> str:
    """Return today's name of an entry, such as fpn.inner_blocks.0.0.weight for fpn.inner_blocks.0.weight."""
    name = OLD_MASK_CONVOLUTION.sub(lambda old: f"roi_heads.mask_head.{int(old[1]) - 1}.0.", name)
    return OLD_CONVOLUTION.sub(lambda old: f"{old[1]}{'.0' if old['rpn'] is None else '.0.0'}.{old[3]}", name)


def _known_categories(state: dict[str, Tensor], meta: JsonObject) -> CategoryMap | None:
    """Return the categories to which the rows of a file's predictor belong, or None if they are unknown."""
    if "category_ids" in meta and "category_names" in meta:
        return CategoryMap(tuple(meta["category_ids"]), tuple(meta["category_names"]))
    if len(state.get(f"{PREDICTOR}cls_score.bias", ())) != COCO_ROWS:
        return None
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return CategoryMap(tuple(range(1, COCO_ROWS)), tuple(names[1:]))


def _mapped_predictor(
    state: dict[str, Tensor], own: dict[str, Tensor], known: CategoryMap | None, wanted: CategoryMap | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state with a predictor in the model's shape, and the names of the rows that stay random.

    Args:
        own: the model's entries before loading.
        known: categories of the file, or None if unknown.
        wanted: categories of the model's labels. None loads the predictor as it is.
    """
    predictors = [name.removesuffix("cls_score.bias") for name in own if name.endswith("cls_score.bias")]
    if any(name not in state for name in own if name.startswith(tuple(predictors))):
        return state, []  # the caller refuses the file
    fits = state[f"{PREDICTOR}cls_score.bias"].shape == own[f"{PREDICTOR}cls_score.bias"].shape
    if wanted is None or (known is None and fits):
        return state, []
    rows = _rows(known, wanted) if known else [None] * len(wanted)
    found = {label: row for label, row in enumerate(rows, start=1) if row is not None}
    # If no category is shared, keep the background row random as well.
    both = {0: 0, **found} if found else {}
    mapped = {}
    # A class has one row of scores, four of box deltas and one of mask logits.
    parts = [(f"{predictor}{layer}", each) for predictor in predictors for layer, each in LAYERS]
    for part, each in (*parts, (MASK_ROWS, 1)):
        for name in (f"{part}.weight", f"{part}.bias"):
            if name in own and name in state and not _is_class_agnostic(name, own, state):
                mapped[name] = _picked(own[name], state[name], list(both), list(both.values()), each)
    random = [f"{ROW}{name}" for name, row in zip(wanted.names, rows, strict=True) if row is None]
    return {**state, **mapped}, random


def _is_class_agnostic(name: str, own: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    """Return whether an entry belongs to boxes or masks that do not depend on the class, in the model or in the file.

    A score for the background and for one class are two rows, so that four rows of boxes serve all classes.
    """
    rows = 1 if name.startswith(MASK_ROWS) else 4 if ".bbox_pred." in name else None
    return rows in (len(own[name]), len(state[name]))


def untrained_categories(report: LoadReport | None) -> list[str]:
    """Return the names of the categories that a detector's weights file does not know."""
    return [name.removeprefix(ROW) for name in (report.missing if report else ()) if name.startswith(ROW)]


def _with_mask_branch(state: dict[str, Tensor], own: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state with the model's own mask branch if the file has none, and the names of its entries."""
    if any(name.startswith(MASK_BRANCH) for name in state):
        return state, []
    branch = {name: value for name, value in own.items() if name.startswith(MASK_BRANCH)}
    return {**state, **branch}, list(branch)


def _rows(known: CategoryMap, wanted: CategoryMap) -> list[int | None]:
    """Return the row of a file's predictor for each category of a model, or None where the file has none.

    A category has its name in all layouts of a data set, but not its id. Names that are not unique need their id too.
    """
    exact = {pair: row for row, pair in enumerate(zip(known.ids, known.names, strict=True), start=1)}
    here, there = Counter(wanted.names), Counter(known.names)
    by_name = {name: row for row, name in enumerate(known.names, start=1) if there[name] == here[name] == 1}
    return [exact.get(pair, by_name.get(pair[1])) for pair in zip(wanted.ids, wanted.names, strict=True)]


def _moved(known: CategoryMap | None, wanted: CategoryMap | None) -> tuple[str, ...]:
    """Return the categories that have another id in the file than in the model's data."""
    if known is None or wanted is None:
        return ()
    pairs = zip(wanted.ids, wanted.names, _rows(known, wanted), strict=True)
    found = ((now, name, known.ids[row - 1]) for now, name, row in pairs if row is not None)
    return tuple(f"{name}: id {before} -> {now}" for now, name, before in found if before != now)


def _picked(own: Tensor, given: Tensor, to: Sequence[int], rows: Sequence[int], each: int) -> Tensor:
    """Return a copy of `own` in which classes `to` come from classes `rows` of `given`.

    A class has `each` consecutive rows.
    """
    if own.shape[1:] != given.shape[1:]:  # another width, which the caller refuses
        return given
    result = own.detach().clone().unflatten(0, (-1, each))
    result[list(to)] = given.unflatten(0, (-1, each))[list(rows)].to(result.dtype)
    return result.flatten(0, 1)
