"""Exports classifiers as state dicts that torchvision or timm loads into its own model."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from backbones.errors import UserError
from classification import Classifier
from tools.exports.exportable import Exportable, Inputs
from tools.exports.files import Runner


def write_state_dict(path: Path, exportable: Exportable) -> None:
    """Write a file that the library's own model loads with `load_state_dict(torch.load(path), strict=True)`.

    Raises:
        UserError: the model is not a classifier, or no library has this model.
    """
    model = exportable.model
    if not isinstance(model, Classifier):
        task = exportable.metadata["task"]
        raise UserError(f"--format torchvision: is for classifiers, and this is a {task} model; use --format onnx")
    torch.save({name: value.contiguous() for name, value in model.library_state().items()}, path)


def run_library_model(path: Path, exportable: Exportable) -> Runner:
    """Load a state dict into the library's own model; return a function that runs this model."""
    assert isinstance(exportable.model, Classifier)
    backbone = exportable.model.backbone
    assert backbone.source is not None  # `write_state_dict` refuses a model that no library has
    theirs = _library_model(*backbone.source, classes=len(exportable.classes), channels=backbone.in_channels)
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=True)
    theirs.eval()

    def call(inputs: Inputs) -> list[Tensor]:
        with torch.no_grad():
            return [theirs(*inputs)]

    return call


def _library_model(library: str, arch: str, *, classes: int, channels: int) -> nn.Module:
    if library == "timm":
        return timm.create_model(arch, num_classes=classes, in_chans=channels)
    inception = {"aux_logits": False, "init_weights": False} if arch in ("googlenet", "inception_v3") else {}
    return get_model(arch, weights=None, num_classes=classes, **inception)
