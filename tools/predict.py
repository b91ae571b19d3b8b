"""Predict with a trained model on images, folders, globs and videos; write results as files and as drawn images.

    python tools/predict.py --run runs/det-20260101-120000 photos/ clip.mp4 "more/*.png"
    python tools/predict.py --weights model.safetensors photos/ --score 0.3 --classes dog,cat --output found
    python tools/predict.py --model model.onnx photos/            # what export.py wrote, by onnxruntime
    python tools/predict.py --model coco photos/                  # a published detector, without any training
    python tools/predict.py --run RUN aerial.tif --tile 800       # overlapping tiles, merged detections
    python tools/predict.py --run RUN https://example.org/a.jpg --save coco,csv,yolo,voc,crops
    python tools/predict.py --run RUN 0 --video-stride 5          # camera 0 until Ctrl-C; rtsp:// addresses as well

The run determines the task. The command names each input that cannot be read, predicts the other inputs, and exits with
status 2. Ctrl-C and SIGTERM end it early: it keeps the results so far and exits with status 130.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.listing import describe_passed_over
from backbones.errors import UserError, counted, require
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions
from tools.prediction.settings import PredictionSettings

if TYPE_CHECKING:
    from tools.prediction.inputs import FoundInputs
    from tools.prediction.running import PredictionSummary


@dataclass
class PredictionFiles:
    """Inputs, trained model and output folder of a prediction.

    Args:
        inputs: images, folders, globs and videos; http and https addresses of images; - for one image on standard
            input; numbers of cameras and rtsp addresses, until Ctrl-C.
        run: folder of a training run.
        weights: weights file of a run, instead of its folder.
        model: file that export.py wrote (.onnx, or .xml of OpenVINO), instead of a run; or a published model, without
            any training: coco, coco-v2, coco-masks or coco-masks-v2 (detectors), fcn_resnet50 or fcn_resnet101 (21
            classes of Pascal VOC), resnet18 to resnet152 (1,000 classes).
        output: folder of the results; absent: a new folder under runs/.
    """

    inputs: list[str] = field(default_factory=list, metadata=POSITIONAL)
    run: str | None = None
    weights: str | None = None
    model: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        named = [each for each in (self.run, self.weights, self.model) if each is not None]
        require(len(named) == 1, "run", self.run, "name one of --run FOLDER, --weights FILE and --model FILE or NAME")

    @property
    def trained(self) -> str:
        """Return the run folder, weights file, exported file or published name that predicts."""
        return self.run or self.weights or self.model or ""


@dataclass
class PredictOptions:
    """All options of the command."""

    files: PredictionFiles
    settings: PredictionSettings
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Find the inputs, load the model, predict, and print a summary."""
    options = parse(PredictOptions, description=__doc__, argv=argv)
    files, settings = options.files, options.settings
    if not files.inputs:
        raise UserError("no input: name images, folders, globs or videos after the options")

    from tools.prediction.inputs import find_inputs  # imports torch

    options.plugins.load()
    with tempfile.TemporaryDirectory() as downloads:
        found = find_inputs(files.inputs, Path(downloads), stride=settings.video_stride)
        _predict(found, options)


def _predict(found: FoundInputs, options: PredictOptions) -> None:
    """Predict the inputs that were found, and print a summary. The errors are those of `report`."""
    from tools.engine.run_folder import choose_results, create_results
    from tools.prediction import running

    files, settings = options.files, options.settings
    if not found.files:
        raise UserError("; ".join(found.problems))
    folder = choose_results(files.output, prefix="predict")
    running.set_up_cpu(settings)
    if files.model:
        running.require_model(files.model)
    task = running.open_task(files.trained, settings, folder)
    for problem in found.problems:
        running.print_problem(problem)
    alone = len(found.files) + len(found.problems) == 1  # the problem of a single input ends the command
    summary = running.predict_all(
        task, found.files, settings, folder, create_folder=create_results, print_problems=not alone
    )
    summary.problems[:0] = found.problems
    summary.passed_over = dict(found.passed_over)
    if folder.is_dir():
        running.write_summary(folder / "summary.json", summary, task)
    report(summary, folder, alone=alone)


def report(summary: PredictionSummary, folder: Path, *, alone: bool) -> None:
    """Print a summary of the prediction.

    Args:
        alone: whether it had a single input, whose problem has not been printed.

    Raises:
        KeyboardInterrupt: if the prediction was interrupted.
        UserError: if an input could not be predicted.
    """
    done, failed = summary.images, len(summary.problems)
    speed = f"{summary.seconds:.1f} s: {summary.images_per_second:.1f} images/s"
    if done or not alone:
        print(f"{counted(done, 'image')} in {speed}; {counted(failed, 'input')} failed")
    if others := describe_passed_over(summary.passed_over):
        print(f"files passed over: {others}")
    if summary.files:
        print(f"in {folder}: {', '.join(summary.files)}")
    for note in summary.notes:
        print(note)
    if summary.interrupted:
        raise KeyboardInterrupt(f"interrupted: predicted {counted(done, 'image')}, but not the others")
    if failed and alone:
        raise UserError(summary.problems[0])
    if failed:
        raise UserError(
            f"{counted(failed, 'input')} failed, and the command predicted {counted(done, 'image')}; fix or leave out "
            "the inputs that the errors above name"
        )


if __name__ == "__main__":
    run(main)
