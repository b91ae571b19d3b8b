"""Encodes boxes as deltas from other boxes, and decodes them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, encode_boxes

from backbones.common.constants import constant


class CachedBoxCoder(BoxCoder):
    """torchvision's coder, whose weights are kept on the GPU."""

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """Return the deltas `[N, 4]` from proposals to reference boxes, both `[N, 4]` xyxy (equation 2)."""
        encoded: Tensor = encode_boxes(reference_boxes, proposals, constant(self.weights, like=reference_boxes))
        return encoded

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Return the boxes `[N, 4 * K]` xyxy that deltas `[N, 4 * K]` make of boxes `[N, 4]` (equation 2)."""
        low, high = boxes.to(rel_codes.dtype).split(2, dim=1)
        sides = (high - low)[:, None]
        centres = low[:, None] + 0.5 * sides
        moves = rel_codes.unflatten(1, (-1, 4)) / constant(self.weights, like=rel_codes)
        # Limit the growth of sides, because exp of a large delta is infinite.
        halves = 0.5 * (moves[..., 2:].clamp(max=self.bbox_xform_clip).exp() * sides)
        moved = moves[..., :2] * sides + centres
        return torch.cat([moved - halves, moved + halves], dim=-1).flatten(1)
