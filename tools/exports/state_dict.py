"""Classifiers as the state dict of the library's own net, torchvision's or timm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.errors import UserError
from tools.exports.exportable import Exportable, Inputs
from tools.exports.files import Runner


def write_torchvision(path: Path, net: Exportable) -> None:
    """`load_state_dict(torch.load(path))` of the library's net takes it with strict=True.

    Raises:
        UserError: where no library has the net.
    """
    if net.metadata["task"] != "classification":
        raise UserError(f"--format torchvision: is for classifiers, not for nets of {net.metadata['task']}; take onnx")
    state: dict[str, Tensor] = net.net.library_state()  # type: ignore[operator]
    torch.save({name: value.contiguous() for name, value in state.items()}, path)


def run_torchvision(path: Path, net: Exportable) -> Runner:
    """The library's net with the file."""
    backbone: Any = net.net.backbone
    library, arch = backbone.source
    classes = len(net.metadata["classes"])
    if library == "timm":
        import timm

        theirs = timm.create_model(arch, num_classes=classes, in_chans=backbone.in_channels)
    else:
        from torchvision.models import get_model

        inception = {"aux_logits": False, "init_weights": False} if arch in ("googlenet", "inception_v3") else {}
        theirs = get_model(arch, weights=None, num_classes=classes, **inception)
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=True)
    theirs.eval()

    def call(inputs: Inputs) -> list[Tensor]:
        with torch.no_grad():
            return [theirs(*inputs)]

    return call
