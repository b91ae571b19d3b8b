"""The trackers that `--track` names: TensorBoard, a CSV file, MLflow, and Weights & Biases."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from backbones.common.files import JsonObject, write_json, write_text
from backbones.common.run_files import CONFIG_FILE, RESULTS_FILE
from backbones.errors import UserError
from tools.engine.tracking import (
    TRACKERS,
    RunEnd,
    RunStart,
    Split,
    Tracker,
    Trackers,
    register_tracker,
    warn_of_failure,
)
from tools.processes import distributed

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

CSV_FILE = "metrics.csv"
CSV_COLUMNS = ("step", "time", "split", "name", "value")
IDS_FILE = "tracking.json"  # the runs of MLflow and Weights & Biases that a resumed run continues
EXTRA = "track"
LONGEST = 500  # characters of an option's value in MLflow, whose older servers take no more


def open_trackers(names: Sequence[str]) -> Trackers:
    """Return the trackers that `--track` names. Other processes than the main process get none.

    A tracker that cannot be made is left out with a warning.

    Raises:
        UserError: there is no such tracker, or its package is not installed.
    """
    opened: dict[str, Tracker] = {}
    for name in names if distributed.is_main() else ():
        make = TRACKERS[name]
        try:
            opened[name] = make()
        except UserError:
            raise
        except Exception as error:
            warn_of_failure(name, error)
    return Trackers(opened)


def tag(name: str, split: Split) -> str:
    """Return the name under which trackers show a value: "lr", or the split and the name, such as val/loss."""
    return name if name == "lr" else f"{split}/{name.removeprefix(f'{split}_')}"


def numbers(values: JsonObject, split: Split) -> dict[str, float]:
    """Return the values that are numbers, by their tags."""
    return {tag(name, split): value for name, value in values.items() if isinstance(value, (int, float))}


def settings(options: JsonObject) -> dict[str, bool | int | float | str]:
    """Return options as plain values; lists and None as JSON texts."""
    return {
        name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
        for name, value in options.items()
    }


def final(end: RunEnd) -> dict[str, float]:
    """Return the metrics of the delivered model other than counts, as `final/NAME`."""
    return {f"final/{name}": value for name, value in end.results.items() if isinstance(value, float)}


@register_tracker("tensorboard")
class TensorBoardTracker(Tracker):
    """Writes events for TensorBoard into `tensorboard/` of the run folder."""

    _events: SummaryWriter

    def on_start(self, start: RunStart) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.start = start
        self._events = SummaryWriter(str(start.folder / "tensorboard"), purge_step=start.step + 1)

    def on_log(self, step: int, values: JsonObject) -> None:
        self._write(step, numbers(values, "train"))

    def on_evaluate(self, step: int, results: JsonObject) -> None:
        self._write(step, numbers(results, "val"))

    def on_end(self, end: RunEnd) -> None:
        """Write the table of hyperparameters and samples.png."""
        if end.status == "finished":
            # The run name "." keeps the table's entry in the folder of the run's curves.
            given = settings(self.start.options)
            self._events.add_hparams(given, final(end), run_name=".", global_step=end.step)
            if (picture := self.start.folder / "samples.png").is_file():
                self._events._get_file_writer().add_summary(_image_summary("samples", picture), end.step)
        self._events.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)


@register_tracker("csv")
class CsvTracker(Tracker):
    """Writes a line for each number into metrics.csv of the run folder: step, time, split, name, value."""

    def on_start(self, start: RunStart) -> None:
        """Remove lines of steps after the checkpoint, which a killed run left behind."""
        self.path = start.folder / CSV_FILE
        kept = [list(CSV_COLUMNS)]
        if self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(CSV_COLUMNS) and row[0].isdigit()]
            kept += [row for row in rows if int(row[0]) <= (start.measured if row[2] == "val" else start.step)]
        text = io.StringIO()
        csv.writer(text).writerows(kept)
        write_text(self.path, text.getvalue())

    def on_log(self, step: int, values: JsonObject) -> None:
        self._write(step, values, "train")

    def on_evaluate(self, step: int, results: JsonObject) -> None:
        self._write(step, results, "val")

    def on_end(self, end: RunEnd) -> None:
        if end.status == "finished":
            self._append([[end.step, round(time.time(), 3), "final", *pair] for pair in final(end).items()])

    def _write(self, step: int, values: JsonObject, split: Split) -> None:
        now = round(time.time(), 3)
        rows = [(name, value) for name, value in values.items() if isinstance(value, (int, float))]
        self._append([[step, now, split, *row] for row in rows])

    def _append(self, rows: list[list[Any]]) -> None:
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)


class _ServiceTracker(Tracker):
    """Base class of trackers that need an optional package and keep the id of their run in tracking.json."""

    package: str

    def __init__(self) -> None:
        if find_spec(self.package) is None:
            raise UserError(
                f"--track {self.package}: its package is not installed; pip install 'resnet-transfer[{EXTRA}]' "
                "installs it, or leave the option out"
            )

    def known_id(self, folder: Path) -> str | None:
        """Return the id of the run that is continued; None for a new run."""
        known = _ids(folder).get(self.package)
        return known if isinstance(known, str) else None

    def keep_id(self, folder: Path, identifier: str) -> None:
        """Keep the id, so that a resumed run continues the same run."""
        write_json(folder / IDS_FILE, {**_ids(folder), self.package: identifier})


@register_tracker("mlflow")
class MlflowTracker(_ServiceTracker):
    """Writes to MLflow: the store of $MLFLOW_TRACKING_URI and the experiment of $MLFLOW_EXPERIMENT_NAME."""

    package = "mlflow"

    def on_start(self, start: RunStart) -> None:
        import mlflow  # an optional package

        self.folder = start.folder
        self.client = mlflow.MlflowClient()
        self.run_id = self._known_run() or self._new_run(start)

    def on_log(self, step: int, values: JsonObject) -> None:
        self._write(step, numbers(values, "train"))

    def on_evaluate(self, step: int, results: JsonObject) -> None:
        self._write(step, numbers(results, "val"))

    def on_end(self, end: RunEnd) -> None:
        """Write final metrics, results.json and samples.png, and close the run."""
        self._write(end.step, final(end))
        for name in (CONFIG_FILE, RESULTS_FILE, "samples.png") if end.status == "finished" else ():
            if (file := self.folder / name).is_file():
                self.client.log_artifact(self.run_id, str(file))
        states = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
        self.client.set_terminated(self.run_id, states[end.status])

    def _known_run(self) -> str | None:
        known = self.known_id(self.folder)
        if known is None:
            return None
        self.client.update_run(known, status="RUNNING")
        return known

    def _new_run(self, start: RunStart) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "resnet-transfer")
        found = self.client.get_experiment_by_name(name)
        experiment = self.client.create_experiment(name) if found is None else found.experiment_id
        run_id = self.client.create_run(experiment, run_name=start.folder.resolve().name).info.run_id
        for option, value in settings(start.options).items():
            self.client.log_param(run_id, option, str(value)[:LONGEST])
        self.keep_id(start.folder, run_id)
        return run_id

    def _write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run_id, re.sub(r"[^\w\-. /]", "_", name), float(value), step=step)


@register_tracker("wandb")
class WandbTracker(_ServiceTracker):
    """Writes to Weights & Biases, by its own settings, such as $WANDB_PROJECT and $WANDB_MODE=offline."""

    package = "wandb"

    def on_start(self, start: RunStart) -> None:
        import wandb  # an optional package

        self.folder, self.image = start.folder, wandb.Image
        known = self.known_id(start.folder)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "resnet-transfer"),
            name=start.folder.resolve().name,
            id=known,
            resume=None if known is None else "allow",
            dir=str(start.folder),
            config=dict(start.options),
        )
        # A resumed run repeats steps that a killed run had logged; its own axis allows that.
        self.run.define_metric("*", step_metric="step")
        self.keep_id(start.folder, self.run.id)

    def on_log(self, step: int, values: JsonObject) -> None:
        self.run.log({"step": step, **numbers(values, "train")})

    def on_evaluate(self, step: int, results: JsonObject) -> None:
        self.run.log({"step": step, **numbers(results, "val")})

    def on_end(self, end: RunEnd) -> None:
        """Write final metrics and samples.png, and close the run."""
        self.run.summary.update(final(end))
        if end.status == "finished" and (picture := self.folder / "samples.png").is_file():
            self.run.log({"step": end.step, "samples": self.image(str(picture))})
        self.run.finish(exit_code=0 if end.status == "finished" else 1)


def _image_summary(name: str, picture: Path) -> Summary:
    """Return an image file as TensorBoard stores images; the file is stored as it is."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # slow to import

    with Image.open(picture) as image:
        (width, height), channels = image.size, len(image.getbands())
    stored = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=picture.read_bytes())
    return Summary(value=[Summary.Value(tag=name, image=stored)])


def _ids(folder: Path) -> JsonObject:
    with suppress(OSError, ValueError):
        known = json.loads((folder / IDS_FILE).read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    return {}
