"""Parts of a model that an exported file replaces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.weights.exported import ExportedFile
from backbones.weights.report import LoadReport


class ExportedBackbone(Backbone):
    """Description of the images that an exported file takes, in place of a backbone. It computes nothing.

    Args:
        file: the file, in which the layers of the backbone are.
        part: name of an entry that the load report counts as loaded.
    """

    def __init__(self, file: ExportedFile, part: str) -> None:
        seen = file.meta["input"]
        super().__init__(
            name=file.path.name,
            feature_info=(),
            in_channels=seen.get("in_channels", 3),
            mean=seen["mean"],
            std=seen["std"],
        )
        self.load_report = LoadReport(str(file.path), (part,), (), (), (), note=f"run by {file.library} on the CPU")
        # An optimizer, which an evaluation builds but does not use, needs a parameter.
        self.placeholder = nn.Parameter(torch.zeros(0))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Refuse: the feature maps stay inside the file."""
        raise NotImplementedError(f"{self.name}: an exported file does not return feature maps")


def as_bytes(image: Tensor) -> Tensor:
    """Return an image `[C, H, W]`, uint8 or floats in 0..1, as bytes `[H, W, C]`."""
    whole = image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).to(torch.uint8)
    return whole.movedim(0, -1).contiguous()
