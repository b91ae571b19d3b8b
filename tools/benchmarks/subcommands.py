"""The sub-commands of `tools/benchmark.py`. This module does not import torch; the benchmarks do."""

from __future__ import annotations

from typing import NamedTuple

from backbones.common.device_options import DeviceOptions
from tools.benchmarks import options
from tools.cli.plugins import PluginOptions


class SubCommand(NamedTuple):
    """A sub-command of benchmark.py. Its class is given as "module:name", so that it is imported only when used."""

    benchmark: str
    description: str
    subject: type
    timing: type[options.Timing] = options.Timing
    plugins: type[PluginOptions] | None = None
    device: type[DeviceOptions] | None = None


BENCHMARKS = {
    "classify": SubCommand(
        "tools.benchmarks.classify:ClassifyBenchmark",
        "Speed and memory of classification models, ours beside torchvision's and timm's.",
        options.ClassifyOptions,
        options.TimingAndMemory,
        PluginOptions,
        DeviceOptions,
    ),
    "detect": SubCommand(
        "tools.benchmarks.detect:DetectBenchmark",
        "Speed of detectors in training and inference, ours beside torchvision's.",
        options.DetectOptions,
        plugins=PluginOptions,
        device=DeviceOptions,
    ),
    "segment": SubCommand(
        "tools.benchmarks.segment:SegmentBenchmark",
        "Speed of segmentation models in training and inference, ours beside torchvision's.",
        options.SegmentOptions,
        plugins=PluginOptions,
        device=DeviceOptions,
    ),
    "load": SubCommand(
        "tools.benchmarks.load:LoadBenchmark",
        "Speed of the training pipelines on one core, ours beside torchvision's reference presets.",
        options.LoadOptions,
        options.OneThreadTiming,
    ),
    "evaluate": SubCommand(
        "tools.benchmarks.evaluate:EvaluateBenchmark",
        "Time and memory of COCO's box metrics, ours beside pycocotools and faster-coco-eval.",
        options.EvaluateOptions,
    ),
    "memory": SubCommand(
        "tools.benchmarks.memory:MemoryBenchmark",
        "Memory of training steps and of loader workers, ours beside torchvision's.",
        options.MemoryOptions,
        plugins=PluginOptions,
        device=DeviceOptions,
    ),
    "scale": SubCommand(
        "tools.benchmarks.scale:ScaleBenchmark",
        "Growth of costs with images, objects, classes, pixels and processes, ours beside other libraries'.",
        options.ScaleOptions,
        options.TimingAndMemory,
    ),
    "processes": SubCommand(
        "tools.benchmarks.processes:ProcessBenchmark",
        "Traffic and gradients of groups of gloo processes on this machine, compared with one process.",
        options.ProcessOptions,
    ),
    "latency": SubCommand(
        "tools.benchmarks.latency:LatencyBenchmark",
        "Latency, memory and accuracy on the CPU: PyTorch, torch.compile, onnxruntime, OpenVINO; fp32, bf16, 8 bits.",
        options.LatencyOptions,
        options.TimingAndMemory,
    ),
}
