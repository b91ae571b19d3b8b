"""Speed of segmentation nets in training and inference, ours beside torchvision's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tools.benchmarks.options import Timing
from tools.benchmarks.settings import words
from tools.benchmarks.tasks import Task, TaskBenchmark, TaskOptions
from tools.cli.plugins import PluginOptions

NETS = "resnet50-dilated:480"
NOTES = (
    "Square images of the size in the net's name, 21 classes; live batch norm; the loss is cross-entropy of both "
    "heads. `vs` is our speed divided by the peer's, taken within each round, median over the rounds: above 1 ours is "
    "faster. GFLOPs are 1e9 multiply-adds that ours makes for one image, backward pass included in training; `floor` "
    "is the share of the machine's rate of matrix products (two operations a multiply-add) that each library reaches "
    "of that work. The weights are the same; results.json has the largest difference of the scores in fp32 "
    "(`score_difference`), as a share of the largest score.",
)


@dataclass
class SegmentOptions(TaskOptions):
    """What to measure.

    Args:
        nets: BACKBONE-HEAD:PIXELS with commas between them; heads are those of train_seg.py.
        batch: images per step.
        mode: train, infer, or both with a comma.
        precision: of the comparison at equal settings; auto is bf16 where the hardware has it, else fp32.
    """

    nets: str = NETS
    batch: int = 2
    mode: str = "train,infer"
    precision: Literal["auto", "fp32", "bf16", "both"] = "auto"


@dataclass
class Options:
    """The benchmark's option groups."""

    segment: SegmentOptions
    measuring: Timing
    plugins: PluginOptions


class Benchmark(TaskBenchmark):
    """Measures net after net.

    Raises:
        UserError: an unknown net.
    """

    def __init__(self, options: Options) -> None:
        from tools.benchmarks.segmenters import Segmenter, SegmenterJob, build, share_weights

        task = Task(build, share_weights, SegmenterJob, "score_difference", NOTES)
        nets = [Segmenter.parse(text, batch=options.segment.batch) for text in words(options.segment.nets)]
        super().__init__(task, nets, options.segment, options.measuring)
