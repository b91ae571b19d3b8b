"""Speed of detectors in training and inference, ours beside torchvision's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from tools.benchmarks.options import Timing
from tools.benchmarks.settings import words
from tools.benchmarks.tasks import Task, TaskBenchmark, TaskOptions
from tools.cli.plugins import PluginOptions

NETS = "resnet50-fpn:400,resnet50-fpn:800x1,resnet18-fpn:400,resnet50-c4:400x1,resnet50-dc5:400"
NOTES = (
    "Images of 640x480 pixels, which the net resizes to the short side in its name; seven boxes each, 90 classes; "
    "batch norm is frozen, and so are the stem and c2. `vs` is our speed divided by the peer's, taken within each "
    "round, median over the rounds: above 1 ours is faster. GFLOPs are 1e9 multiply-adds that ours makes for one "
    "image, backward pass included in training; `floor` is the share of the machine's rate of matrix products (two "
    "operations a multiply-add) that each library reaches of that work. The weights are the same; results.json has "
    "the largest difference of the losses in fp32 (`loss_difference`), as a share of the largest loss.",
)


@dataclass
class DetectOptions(TaskOptions):
    """What to measure.

    Args:
        nets: BACKBONE-NECK:PIXELS with commas between them; PIXELSxIMAGES where a net's images per step are its own.
        batch: images per step of the others.
        mode: train, infer, or both with a comma.
        precision: of the comparison at equal settings; auto is bf16 where the hardware has it, else fp32.
        compared: BACKBONE-NECK that torchvision's is measured beside, with commas between them, wildcards allowed.
    """

    nets: str = NETS
    batch: int = 2
    mode: str = "train,infer"
    precision: Literal["auto", "fp32", "bf16", "both"] = "auto"
    compared: str = "resnet50-fpn"


@dataclass
class Options:
    """The benchmark's option groups."""

    detect: DetectOptions
    measuring: Timing
    plugins: PluginOptions


class Benchmark(TaskBenchmark):
    """Measures net after net.

    Raises:
        UserError: an unknown net.
    """

    def __init__(self, options: Options) -> None:
        from tools.benchmarks.detectors import Detector, DetectorJob, build, share_weights

        task = Task(build, share_weights, DetectorJob, "loss_difference", NOTES)
        nets = [Detector.parse(text, batch=options.detect.batch) for text in words(options.detect.nets)]
        compared = words(options.detect.compared)
        nets = [replace(net, alone=not any(fnmatchcase(str(net), pattern) for pattern in compared)) for net in nets]
        super().__init__(task, nets, options.detect, options.measuring)
