"""Find where a loss or gradient became not finite: repeat the training step in fp32 and in the run's precision.

    python tools/replay.py RUN/nonfinite-step-120-rank-0.safetensors
    python tools/replay.py RUN/nonfinite-step-120-rank-0.safetensors --weights checkpoint  # the last saved weights

A training that stops because its loss or gradient is not finite writes this file. It holds images, targets and random
state of the step, and the weights at that step, which are newer than the last checkpoint. For each precision the
command prints the loss terms, the first module whose output is not finite, and the first gradient that is not finite.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common import plugins
from backbones.common.device_options import DeviceOptions
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions


@dataclass
class StepOptions:
    """The training step to repeat.

    Args:
        file: nonfinite-step-N-rank-R.safetensors of a run folder.
        weights: failure uses the weights that gave the loss, checkpoint those of the run's last checkpoint, which are
            some steps older.
    """

    file: str = field(metadata=POSITIONAL)
    weights: Literal["failure", "checkpoint"] = "failure"


@dataclass
class ReplayOptions:
    """Options of replay.py."""

    step: StepOptions
    device: DeviceOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Read the step, rebuild the model, repeat the step in each precision, and print what is not finite."""
    options = parse(ReplayOptions, description=__doc__, argv=argv)
    options.plugins.load()

    import torch

    from backbones.common.devices import usable_device
    from tools.engine import replaying
    from tools.tasks.models import rebuild

    path, weights = Path(options.step.file), options.step.weights
    kept = replaying.read(path)
    plugins.require(kept["meta"].get("plugins"), where=path)
    state = replaying.last_checkpoint(path) if weights == "checkpoint" else None
    model = replaying.restore(rebuild(kept["meta"], None), kept, state)
    device = usable_device(options.device.device)
    model = model.to(device).to(memory_format=torch.channels_last)
    print(*replaying.describe_input(kept, model, weights), sep="\n")
    precisions = dict.fromkeys(("float32", kept["precision"]))
    found = {name: replaying.trace(model, kept, getattr(torch, name)) for name in precisions}
    for name, traced in found.items():
        print(*traced.lines(name), sep="\n")
    if found["float32"].finite and not found[kept["precision"]].finite:
        print(f"float32 is finite: the cause is {kept['precision']}; see --precision")


if __name__ == "__main__":
    run(main)
