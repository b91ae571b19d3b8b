"""Runs a prediction: opens the model, reads, batches and predicts images, and writes the results."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import classification
import detection
import segmentation
from backbones.common.files import write_json
from backbones.common.machine import cores
from backbones.errors import UserError
from backbones.published_models import PUBLISHED
from backbones.trained import find
from backbones.weights.exported import is_exported
from tools.prediction.classification import ClassificationPrediction
from tools.prediction.detection import DetectionPrediction
from tools.prediction.detection_files import require_forms
from tools.prediction.inputs import Content, InputFile, count_images, stream
from tools.prediction.naming import NumberedImage, number_images
from tools.prediction.outputs import PictureWriter
from tools.prediction.parallel import Division, divide, predict_in_order
from tools.prediction.segmentation import SegmentationPrediction
from tools.prediction.settings import PredictionSettings
from tools.prediction.tasks import AnyTask, PredictionTask
from tools.processes.stopping import as_keyboard_interrupt
from tools.processes.threads import default_threads

MOST_PIXELS = 1 << 24  # of images that wait for a full batch, so that memory does not grow with their sizes
MOST_WORKERS = 4  # without --workers
SHORT = 0.5  # seconds of a prediction that needs no progress bar
TRAINED_CROP = 512  # crop size of a segmentation run whose options do not name it


@dataclass
class PredictionSummary:
    """Counts and duration of a prediction.

    Attributes:
        images: number of images and frames that were predicted.
        problems: messages about inputs that failed.
        interrupted: whether an interrupt ended the prediction early.
        files: a line of text for each written file: its name and its content.
        passed_over: number of files in the named folders that are neither image nor video, by suffix.
        notes: lines on what was left out of the drawn images and videos.
    """

    images: int = 0
    problems: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def images_per_second(self) -> float:
        """Images per second; the time includes reading and drawing."""
        return self.images / self.seconds


def open_task(run: str, settings: PredictionSettings, folder: Path) -> AnyTask:
    """Load the trained model of a run for prediction.

    Args:
        run: run folder or weights file.
        folder: folder of the results.

    Raises:
        UserError: if there is no trained model, or a setting does not fit its task.
    """
    task = find(run).task
    device, precision = settings.device, settings.precision
    if task == "detection":
        loaded = detection.load(run, device=device, precision=precision, score=settings.score)
        return DetectionPrediction(loaded, settings, folder)
    if settings.score is not None:
        raise UserError(f"--score {settings.score}: is for detectors, but {run} is a {task} model; leave --score out")
    require_forms(settings.forms, ("coco", "csv") if task == "segmentation" else ("csv",), task)
    if task == "segmentation":
        tiles = _segmentation_tiles(run, settings)
        return SegmentationPrediction(
            segmentation.load(run, device=device, precision=precision, **tiles), settings, folder
        )
    return ClassificationPrediction(classification.load(run, device=device, precision=precision), settings)


def require_model(name: str) -> None:
    """Check that `--model` names an exported file or a published model, and not a misspelt one.

    Raises:
        UserError: there is no such model, with similar names.
    """
    if not Path(name).exists() and not is_exported(name):
        PUBLISHED[name]()


def set_up_cpu(settings: PredictionSettings) -> None:
    """Set the number of CPU threads, and treat denormal numbers as zero, as training does."""
    torch.set_num_threads(settings.threads or default_threads())
    torch.set_flush_denormal(True)


def divide_cpu(task: AnyTask, settings: PredictionSettings, *, images: int | None) -> Division:
    """Choose how many batches to predict at once, and give each its CPU threads.

    One batch after the other is predicted on GPUs, by exported files, whose libraries divide the cores by themselves,
    of streams, whose images wait for each other, and where large images could fill the memory.

    Args:
        images: number of all images; None for streams.
    """
    threads = torch.get_num_threads()
    is_divided = task.model.device.type == "cpu" and not is_exported(task.model.trained.path) and task.limits_memory
    if images is None or not is_divided:
        return Division(1, settings.batch_size, threads)
    division = divide(settings.batch_size, threads, images=images)
    torch.set_num_threads(division.threads)
    return division


def predict_all(
    task: AnyTask,
    inputs: Sequence[InputFile],
    settings: PredictionSettings,
    folder: Path,
    *,
    create_folder: Callable[[Path], None],
    print_problems: bool,
) -> PredictionSummary:
    """Predict all images and frames, and write the results.

    Ctrl-C and SIGTERM end the prediction early and keep the results so far.

    Args:
        create_folder: creates the folder of the results; called before the first result.
        print_problems: print the message about an input when it fails, not only return it.
    """
    summary = PredictionSummary()
    started = time.perf_counter()

    def report(problem: str) -> None:
        summary.problems.append(problem)
        if print_problems:
            print_problem(problem)

    workers = min(MOST_WORKERS, cores()) if settings.workers is None else settings.workers
    images = number_images(stream(inputs, task.read, workers=workers), inputs, on_problem=report)
    count = count_images(inputs)
    division = divide_cpu(task, settings, images=count)
    with (
        PictureWriter(folder / "pictures", enabled=settings.draw) as pictures,
        # A message that is printed while a bar still waits for its delay would end without a new line.
        tqdm(total=count, unit="img", dynamic_ncols=True, delay=0.0 if print_problems else SHORT) as bar,
        as_keyboard_interrupt(signal.SIGTERM),
    ):
        try:
            found = predict_in_order(
                batches(images, task, division.size),
                lambda batch: task.predict([image.content for image in batch]),
                at_once=division.batches,
                pixels=lambda image: task.pixels(image.content),
            )
            for batch, results in found:
                if not summary.images:
                    create_folder(folder)
                for image, result in zip(batch, results, strict=True):
                    task.add(image, result, pictures)
                    summary.images += 1
                    bar.update()
        except KeyboardInterrupt:
            summary.interrupted = True
    summary.seconds, summary.notes = time.perf_counter() - started, pictures.notes
    if summary.images:
        summary.files = task.finish(folder)
        if settings.draw:
            summary.files.append("pictures/")
    return summary


def batches(
    images: Iterable[NumberedImage[Content]], task: PredictionTask[Content, Any], size: int
) -> Iterator[list[NumberedImage[Content]]]:
    """Yield batches of at most `size` images of the same group (`task.group`).

    Limit the pixels held in memory for incomplete batches: beyond `MOST_PIXELS`, yield the largest incomplete batch.
    """
    waiting: dict[Hashable, list[NumberedImage[Content]]] = {}
    for image in images:
        group = task.group(image.content)
        waiting.setdefault(group, []).append(image)
        if group is None or len(waiting[group]) == size:
            yield waiting.pop(group)
        # Predict the largest incomplete batches while too many pixels wait.
        while sum(task.pixels(each.content) for batch in waiting.values() for each in batch) > MOST_PIXELS:
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()


def write_summary(path: Path, summary: PredictionSummary, task: AnyTask) -> None:
    """Write the summary of a prediction as JSON."""
    content = {
        "pictures": summary.images,
        "interrupted": summary.interrupted,
        "seconds": round(summary.seconds, 2),
        "pictures_per_second": round(summary.images_per_second, 3),
        "weights": str(task.model.trained.path),
        "failed": summary.problems,
        "passed_over": summary.passed_over,
    }
    write_json(path, content)


def print_problem(problem: str) -> None:
    """Print a message about an input to stderr, above the progress bar."""
    tqdm.write(f"error: {problem}", file=sys.stderr)


def _segmentation_tiles(run: str, settings: PredictionSettings) -> dict[str, Any]:
    """Return the tile arguments for `segmentation.load`; {} to use the tile settings of the run."""
    side = find(run).config.get("crop_size", TRAINED_CROP) if settings.tile == "auto" else settings.tile
    tiles = {} if side is None else {"tile": side}
    return tiles if settings.overlap is None else {**tiles, "overlap": settings.overlap}
