"""Options of all benchmarks. This module does not import torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from backbones.errors import UserError, require

Mode = Literal["train", "infer"]
MODES: dict[Mode, str] = {"train": "Training", "infer": "Inference"}
PIPELINES = ("classify", "detect", "detect-lsj", "detect-strong", "segment")
# Values of each axis of `scale`, smallest first.
AXES = {
    "images": (250, 500, 1000, 2000),
    "objects": (4, 20, 100),
    "classes": (10, 90, 365, 1203),
    "pixels": (256, 384, 512, 768),
    "processes": (1, 2),
}
PROCESS_BATCH = 16  # images of a step of `processes`, over all processes
PYCOCOTOOLS, FASTER = "pycocotools", "faster-coco-eval"
CLASSIFIERS = (
    "plain18,resnet18,plain34,resnet34,resnet50,resnet101,resnet152,plain20,resnet20,plain56,resnet56,resnet110,"
    "torchvision/alexnet,torchvision/vgg16,torchvision/googlenet,torchvision/inception_v3,timm/inception_resnet_v2"
)
DETECTORS = (
    "resnet50-fpn:400,resnet50-fpn:800x1,resnet18-fpn:400,resnet50-c4:400x1,resnet50-dc5:400,resnet50-fpn-masks:400"
)

RUNTIMES = ("pytorch", "pytorch-bf16", "compiled", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")
DEPLOYED = (
    "resnet18:224,resnet50:224,resnet18-fpn:320,resnet18-fpn:800,resnet50-fpn:320,resnet50-fpn:800,resnet50-fcn:480"
)


@dataclass
class Timing:
    """Length of the measurement, and folder for the results.

    Args:
        output: folder for table.md, results.json and chart.png; must be new or empty.
        rounds: rounds in which every implementation has one turn; reported figures are medians over the rounds.
        turn: seconds of one turn; a step that takes longer is a turn by itself.
        threads: CPU threads; default: one per core.
    """

    output: str
    rounds: int = 5
    turn: float = 0.4
    threads: int | None = None

    def __post_init__(self) -> None:
        require(self.rounds > 0, "rounds", self.rounds, "must be above 0")
        require(self.turn >= 0, "turn", self.turn, "must be 0 or above")
        require(self.threads is None or self.threads > 0, "threads", self.threads, "must be above 0")


@dataclass
class TimingAndMemory(Timing):
    """Length of the measurement, and folder for the results.

    Args:
        memory: also measure peak memory, in a fresh process for each implementation.
    """

    memory: bool = True


@dataclass
class OneThreadTiming(Timing):
    """Length of the measurement, and folder for the results.

    Args:
        threads: CPU threads of torch while it rates the machine; a pipeline always runs in one thread.
    """

    threads: int | None = 1


@dataclass
class ModelOptions:
    """Models to measure, and how.

    Args:
        nets: names of models, separated by commas.
        batch: images per step.
        mode: train, infer, or train,infer.
        precision: precision of the comparison at equal settings; auto: bf16 if the hardware supports it, else fp32.
        compile: also train our models with torch.compile, as --compile of the training commands does.
    """

    nets: str
    batch: int = 2
    mode: str = "train,infer"
    precision: Literal["auto", "fp32", "bf16", "both"] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        named = split_list(self.mode)
        require(self.batch > 0, "batch", self.batch, "must be above 0")
        require(named and set(named) <= set(MODES), "mode", self.mode, "must be train, infer or train,infer")
        require(split_list(self.nets), "nets", self.nets, "names no model; name at least one")
        trains = "train" in named
        require(trains or not self.compile, "compile", self.compile, "is for training; add train to --mode")

    @property
    def modes(self) -> list[Mode]:
        """The modes to measure ("train", "infer"), in the order given."""
        return cast("list[Mode]", split_list(self.mode))


@dataclass
class ClassifyOptions(ModelOptions):
    """Models to measure, and how.

    Args:
        nets: names of models, separated by commas; wildcards allowed. A name of the form torchvision/... or timm/...
            is compared with that library's own model.
        size: side of the images in pixels; default: the size that each model was made for.
    """

    nets: str = CLASSIFIERS
    batch: int = 16
    size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.size is None or self.size > 0, "size", self.size, "must be above 0")


@dataclass
class DetectOptions(ModelOptions):
    """Models to measure, and how.

    Args:
        nets: BACKBONE-NECK:PIXELS, separated by commas; PIXELS is the short side of the resized image. Write
            BACKBONE-NECK:PIXELSxIMAGES for a model that has its own number of images per step, and
            BACKBONE-NECK-masks for a model with a mask branch.
        batch: images per step of the models that do not name their own.
        compared: BACKBONE-NECK of the models to compare with torchvision, separated by commas; wildcards allowed.
    """

    nets: str = DETECTORS
    compared: str = "resnet50-fpn,resnet50-fpn-masks"


@dataclass
class SegmentOptions(ModelOptions):
    """Models to measure, and how.

    Args:
        nets: BACKBONE-HEAD:PIXELS, separated by commas; the heads are those of train_seg.py.
    """

    nets: str = "resnet50-dilated:480"


@dataclass
class LoadOptions:
    """Training pipelines to measure, and the images that they read.

    Args:
        data: folder in COCO's layout; its training images are read.
        tasks: pipelines to measure (classify, detect, detect-lsj, detect-strong, segment), separated by commas.
        limit: use only the first n images.
    """

    data: str
    tasks: str = ",".join(PIPELINES)
    limit: int | None = None

    def __post_init__(self) -> None:
        named = split_list(self.tasks)
        require(self.limit is None or self.limit > 0, "limit", self.limit, "must be above 0")
        require(
            named and set(named) <= set(PIPELINES),
            "tasks",
            self.tasks,
            f"must be one or more of {', '.join(PIPELINES)}",
        )


@dataclass
class EvaluateOptions:
    """Libraries of COCO metrics to compare, and the size of the synthetic data set.

    Args:
        images: images of the synthetic data set, with seven boxes on average and 80 classes.
        detections: detections on all images together.
        libraries: libraries to compare with, separated by commas; faster-coco-eval needs the extra `benchmark`.
        iou: what the libraries compare: boxes, or masks.
    """

    images: int = 5000
    detections: int = 500_000
    iou: Literal["bbox", "segm"] = "bbox"
    libraries: str = f"{PYCOCOTOOLS},{FASTER}"

    def __post_init__(self) -> None:
        require(self.images > 0, "images", self.images, "must be above 0")
        require(self.detections > 0, "detections", self.detections, "must be above 0")


@dataclass
class MemoryOptions:
    """Models whose training steps to measure, and the data set of the loader workers.

    Args:
        detectors: BACKBONE-NECK:PIXELS or BACKBONE-NECK:PIXELSxIMAGES, separated by commas; BACKBONE-NECK-masks for a
            model with a mask branch.
        classifiers: names of classification models, separated by commas.
        batch: images per step of the detectors.
        images_per_step: images per step of the classifiers.
        images: images of the annotation file that loader workers read, with seven boxes each; 0: no workers.
        precision: precision of the comparison at equal settings; auto: bf16 if the hardware supports it, else fp32.
    """

    detectors: str = "resnet50-fpn:400,resnet50-fpn:800"
    classifiers: str = "resnet50"
    batch: int = 2
    images_per_step: int = 16
    images: int = 20_000
    precision: Literal["auto", "fp32", "bf16", "both"] = "auto"

    def __post_init__(self) -> None:
        require(self.batch > 0, "batch", self.batch, "must be above 0")
        require(self.images_per_step > 0, "images_per_step", self.images_per_step, "must be above 0")
        require(self.images >= 0, "images", self.images, "must be 0 or above")
        if not (split_list(self.detectors) or split_list(self.classifiers) or self.images):
            raise UserError(
                "--detectors, --classifiers and --images: are all empty, so there is nothing to measure; set "
                "at least one"
            )


@dataclass
class ScaleOptions:
    """Axes along which costs grow, such as the number of images, and how many values of each to measure.

    Args:
        axes: axes to measure (images, objects, classes, pixels, processes), separated by commas.
        values: number of values of each axis, from the smallest; 4 measures all.
    """

    axes: str = ",".join(AXES)
    values: int = 4

    def __post_init__(self) -> None:
        named = split_list(self.axes)
        require(named and set(named) <= set(AXES), "axes", self.axes, f"must be one or more of {', '.join(AXES)}")
        require(self.values > 0, "values", self.values, "must be above 0")


@dataclass
class ProcessOptions:
    """Numbers of processes to measure.

    Args:
        values: numbers of processes, separated by commas; each must divide 16.
    """

    values: str = "2,4,8"

    def __post_init__(self) -> None:
        named = split_list(self.values)
        fits = all(name.isdecimal() and int(name) > 1 and PROCESS_BATCH % int(name) == 0 for name in named)
        rule = f"must be of 2, 4, 8, 16: divisors of {PROCESS_BATCH} images"
        require(named and fits, "values", self.values, rule)


def split_list(text: str) -> list[str]:
    """Return the parts of a text that is separated by commas, without empty parts: "a, b," gives ["a", "b"]."""
    return [word.strip() for word in text.split(",") if word.strip()]


@dataclass
class LatencyOptions:
    """Models and runtimes to measure.

    Args:
        nets: models, with commas between: BACKBONE:PIXELS is a classifier, BACKBONE-fpn:PIXELS (or another neck) a
            detector whose short side is resized to PIXELS, BACKBONE-fcn:PIXELS a segmentation model, all of random
            weights. The folder of a run or a weights file is measured with its accuracy on the run's validation data.
        runtimes: what computes them, with commas between: pytorch, pytorch-bf16, compiled, onnxruntime,
            onnxruntime-int8, openvino, openvino-int8.
    """

    nets: str = DEPLOYED
    runtimes: str = ",".join(RUNTIMES)

    def __post_init__(self) -> None:
        require(split_list(self.nets), "nets", self.nets, "names no model; name at least one")
        for name in split_list(self.runtimes):
            require(name in RUNTIMES, "runtimes", name, f"expected names among {', '.join(RUNTIMES)}")
