"""The option `--device` of the commands that compute with a model. This module imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.common.machine import prepare_device


@dataclass
class DeviceOptions:
    """Device that the model computes on.

    Args:
        device: auto, cpu, cuda, cuda:1 or mps; auto is a GPU if there is one.
    """

    device: str = "auto"

    def __post_init__(self) -> None:
        prepare_device(self.device)
