"""Contestants of every size: evaluations, matchings of anchors, detectors, and groups of processes."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from tools.benchmarks.rounds import Contestant, Step, time_steps
from tools.benchmarks.settings import OURS, Way

PEER = "torchvision"
DETECTIONS_PER_IMAGE = 25
HEIGHT, WIDTH = 800, 1344  # COCO's images as detectors see them, padded to the stride
STRIDES = (4, 8, 16, 32, 64)
IMAGES, SIDE = 4, 96  # of a process's training step


def contestants(axis: str, value: int, way: Way, folder: Path) -> list[Contestant]:
    """Ours and its peer at a value of an axis; `folder` holds their files."""
    return AXES[axis](value, way, folder)


def scorers(images: int, way: Way, folder: Path) -> list[Contestant]:
    """Of COCO metrics."""
    from tools.synthetic.coco_results import write_synthetic

    files = write_synthetic(folder, images, images * DETECTIONS_PER_IMAGE, seed=0)
    return [Contestant(name, partial(_scoring, name, *files)) for name in (OURS, "pycocotools")]


def _scoring(library: str, truth: Path, detections: Path) -> Step:
    from tools.benchmarks.scorers import SCORERS

    return partial(SCORERS[library], truth, detections)


def matchers(objects: int, way: Way, folder: Path) -> list[Contestant]:
    """Of anchors with true boxes."""
    return [Contestant(name, partial(_matching, name, objects)) for name in (OURS, PEER)]


def _matching(library: str, objects: int) -> Step:
    from detection.matching import match_boxes

    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(objects, 2, generator=random) * torch.tensor([WIDTH, HEIGHT]) * 0.7
    truth = torch.cat([corner, corner + 8 + torch.rand(objects, 2, generator=random) * 200], dim=1)
    boxes = _anchors()
    return partial(match_boxes, truth, boxes, matcher) if library == OURS else lambda: matcher(box_iou(truth, boxes))


def _anchors() -> torch.Tensor:
    from detection.rpn import Anchors

    make = Anchors(tuple((8 * stride,) for stride in STRIDES), ((0.5, 1.0, 2.0),) * len(STRIDES))
    maps = [torch.zeros(1, 1, HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
    return make(ImageList(torch.zeros(1, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)]), maps)[0]


def detectors(way: Way, folder: Path, *, size: int, batch: int, classes: int) -> list[Contestant]:
    """Training steps."""
    from tools.benchmarks.detectors import Detector, DetectorJob, share_weights

    net = Detector("resnet18", "fpn", size, batch, classes)
    share_weights(net, folder / "weights.pth")
    jobs = (DetectorJob(library, net, way, "train", folder / "weights.pth") for library in (OURS, PEER))
    return [Contestant(job.library, job.prepare) for job in jobs]


AXES: dict[str, Callable[[int, Way, Path], list[Contestant]]] = {
    "images": scorers,
    "objects": matchers,
    "classes": lambda value, way, folder: detectors(way, folder, size=256, batch=2, classes=value),
    "pixels": lambda value, way, folder: detectors(way, folder, size=value, batch=1, classes=90),
}


def train_together(processes: int, *, rounds: int) -> list[float]:
    """Seconds of a training step that some processes make together, one value a round, besides a step to warm up."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        place = f"file://{folder}/meeting"
        group = [
            context.Process(target=_train, args=(rank, processes, place, rounds, sender), daemon=True)
            for rank in range(processes)
        ]
        for process in group:
            process.start()
        sender.close()
        try:
            seconds: list[float] = receiver.recv()
        finally:
            for process in group:
                process.join(timeout=10)
                process.kill()
    return seconds


def _train(rank: int, processes: int, place: str, rounds: int, sender: Connection) -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    import classification
    from tools.benchmarks.machine import set_up

    set_up(1)
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=processes)
    torch.manual_seed(0)
    net = DistributedDataParallel(classification.build("resnet18", 1000).to(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    images, labels = torch.randn(IMAGES, 3, SIDE, SIDE), torch.randint(1000, (IMAGES,))

    def step() -> Any:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()

    step()
    seconds = []
    for _ in range(rounds):
        dist.barrier()
        seconds.append(time_steps(step, 3))
    if rank == 0:
        sender.send(seconds)
    dist.destroy_process_group()
