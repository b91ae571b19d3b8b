"""Weights of whole segmentation nets: torchvision's COCO files, files of their layout, and our own."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

from backbones import Backbone
from backbones.errors import UserError
from backbones.weights.files import read_state
from backbones.weights.published import fetch
from backbones.weights.report import LoadReport

BASE = "https://download.pytorch.org/models/"
COCO_FILES = {"resnet50": "fcn_resnet50_coco-1167a1af.pth", "resnet101": "fcn_resnet101_coco-7ecb50ca.pth"}
LAST = (".4.weight", ".4.bias")  # of a head: the layer whose rows are classes


def read_segmenter(weights: str | os.PathLike[str] | None, backbone: str | Backbone) -> dict[str, Tensor] | None:
    """The state dict of a whole net, or None where `weights` means a backbone's (or none at all).

    Raises:
        UserError: for "coco" with a net that nobody publishes, or a file that cannot be read.
    """
    if weights != "coco":
        state = read_state(Path(weights)) if weights is not None and Path(weights).is_file() else {}
        return state if any(name.startswith("classifier.4.") for name in state) else None
    name = backbone if isinstance(backbone, str) else backbone.name
    if name not in COCO_FILES:
        raise UserError(f"weights 'coco': published for {' and '.join(COCO_FILES)}, not for {name}; name a file")
    return read_state(fetch(BASE + COCO_FILES[name], what=f"fcn_{name}"))


def fill(model: nn.Module, state: dict[str, Tensor], *, source: str) -> LoadReport:
    """Fill a net from a whole net's entries.

    Scores of another number of classes stay random and are reported as missing; so is an auxiliary head that the file
    lacks. Everything else must fit.

    Raises:
        UserError: where any other entry is missing or differs in shape.
    """
    own = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    absent = [name for name in own if name not in state]
    reshaped = [name for name in own if name in state and state[name].shape != own[name].shape]
    random = [name for name in reshaped if _counts_classes(name)]
    random += [name for name in absent if name.startswith("aux_classifier.")]
    unexpected = [name for name in state if name not in own and not name.endswith("num_batches_tracked")]
    wrong = [name for name in (*absent, *reshaped) if name not in random]
    # A plain net would take a residual one's file but for its projections, and FCN-32s that of FCN-8s but for a part.
    wrong += [name for name in unexpected if name.startswith(("backbone.", "fusion."))]
    if wrong:
        raise UserError(
            f"{source}: does not fit this net ({len(wrong)} entries missing, left over or of another shape, such as "
            f"{wrong[0]}); take the backbone and head that it was made with"
        )
    fitting = {name: value for name, value in state.items() if name in model.state_dict() and name not in random}
    model.load_state_dict(fitting, strict=False)
    return LoadReport(
        source=source,
        matched=tuple(name for name in own if name not in random),
        missing=tuple(random),
        unexpected=tuple(unexpected),
        reshaped=(),
    )


def _counts_classes(name: str) -> bool:
    """Whether an entry has a row, or a row and a column, for each class."""
    return name.startswith("fusion.") or (name.startswith(("classifier.", "aux_classifier.")) and name.endswith(LAST))
