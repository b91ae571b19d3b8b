"""Fixtures of several test files: a small COCO data set that they may break, and a folder of built-in shapes."""

from __future__ import annotations

import faulthandler
import gc
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import cv2
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Keep bytecode, also where the environment says otherwise: each of a hundred processes would compile 200 files anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

ROOT = Path(__file__).resolve().parents[1]
# Workers of pytest-xdist are the parallelism; threads of theirs would wait for each other.
THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
# Those whose import takes long; none of ours, so that scripts begin with their own imports.
LIBRARIES = [
    *("torch", "torchvision", "timm", "timm.optim", "timm.scheduler", "torch.utils.tensorboard", "torch._dynamo"),
    *("albumentations", "cv2", "hotcoco", "jsonargparse", "matplotlib.pyplot", "webdataset"),
    "segmentation_models_pytorch",
]
# A classifier for small images whose backbone trains in a quarter of the time of the recipe's.
CIFAR = ("--recipe", "cifar", "--backbone", "timm/test_resnet")
COCO_MINI = ROOT.parent / "shared" / "data" / "coco-mini"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the commands and with what concerns all code: a long file that came last would leave a worker idle."""
    tests = ROOT / "tests"
    items.sort(key=lambda item: not item.path.is_relative_to(tests / "tools") and item.path.parent != tests)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from the million objects of libraries and tests, which stay until the end."""
    gc.freeze()


def avoid_bf16() -> None:
    """Have `--precision auto` choose fp32 on every machine: tests that do not name bf16 round alike, and run faster."""
    from backbones.common import precision

    precision.has_bf16 = lambda device_type: False


@pytest.fixture(scope="session", autouse=True)
def _fp32() -> None:
    avoid_bf16()


@pytest.fixture(scope="session")
def first_threads() -> int:
    """PyTorch's threads at the beginning."""
    import torch

    return torch.get_num_threads()


@pytest.fixture(autouse=True)
def _keep_threads(first_threads: int) -> Iterator[None]:
    """Undo the number of threads that a command set: with one process a core, two threads each wait for each other."""
    import torch

    torch.set_num_threads(first_threads)
    yield
    torch.set_num_threads(first_threads)


@pytest.fixture(scope="session", autouse=True)
def _one_fork_server() -> None:
    """Have benchmarks fork from the process that `launch` forks from: to start another one takes seconds."""
    from tools.benchmarks import fork_server

    fork_server.PRELOAD = LIBRARIES


@pytest.fixture
def coco_mini() -> Path:
    """Real COCO images and annotations, where they are at hand."""
    if not COCO_MINI.is_dir():
        pytest.skip("needs a sample of COCO in ../shared/data/coco-mini")
    return COCO_MINI


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backbone of the user's own, with features c2 to c4, which is registered for one test."""
    return register_tiny(monkeypatch)


def register_tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """Register a backbone of the user's own, with features c2 to c4, until the patch is undone; returns its name."""
    from torch import nn

    import backbones
    from backbones.registry import BACKBONES

    class TinyBackbone(backbones.Backbone):
        def __init__(self, features: Sequence[str] | str, in_channels: int) -> None:
            levels = {"c2": (8, 4), "c3": (16, 8), "c4": (32, 16)}  # channels, stride
            chosen = backbones.choose_features("tiny", features, tuple(levels))
            infos = [backbones.FeatureInfo(name, *levels[name]) for name in chosen]
            super().__init__(name="tiny", feature_info=infos, in_channels=in_channels)
            self.stem = nn.Conv2d(in_channels, 4, 3, stride=2, padding=1)
            names = [name for name in levels if name <= chosen[-1]]
            widths = [4] + [levels[name][0] for name in names]
            self.layers = nn.ModuleDict(
                {n: nn.Conv2d(before, after, 3, 2, 1) for n, before, after in zip(names, widths, widths[1:])}
            )

        def forward(self, x: Any) -> dict[str, Any]:
            x, maps = self.stem(x), {}
            for name, layer in self.layers.items():
                x = maps[name] = layer(x).relu()
            return {info.name: maps[info.name] for info in self.feature_info}

    def build_tiny(*, features: Sequence[str] | str, in_channels: int) -> TinyBackbone:
        return TinyBackbone(features, in_channels)

    backbones.names()  # registers our own backbones first
    monkeypatch.setattr(BACKBONES, "_builders", dict(BACKBONES._builders))
    backbones.register("tiny")(build_tiny)
    return "tiny"


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    """Four images in COCO's layout: two objects; a negative; an object and a crowd; a lone crowd."""
    return CocoFolder(tmp_path / "coco")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give our networks for large images an eighth of their channels, for tests of structure: they cost a tenth."""
    from backbones import resnet

    for name, architecture in resnet._ARCHITECTURES.items():
        if architecture.first == 2:
            narrower = tuple(width // 8 for width in architecture.widths)
            monkeypatch.setitem(resnet._ARCHITECTURES, name, replace(architecture, widths=narrower))


class CocoFolder:
    """A data set that a test edits in memory and then writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data: dict[str, Any] = {
            "images": [{"id": i, "file_name": f"{i:03d}.jpg", "width": 60, "height": 40} for i in (5, 7, 9, 11)],
            "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}, {"id": 90, "name": "brush"}],
            "annotations": [
                _object(1, image=5, category=18, box=[10, 5, 20, 30]),
                _object(2, image=5, category=90, box=[0, 0, 8, 8]),
                _object(4, image=9, category=3, box=[30, 10, 25, 20]),
                _object(8, image=9, category=3, box=[0, 0, 20, 20], crowd=1),
                _object(9, image=11, category=18, box=[5, 5, 50, 30], crowd=1),
            ],
        }

    def write(self) -> Path:
        """Write the same images and annotations as both splits; returns the root."""
        random = np.random.default_rng(0)
        for split in ("train2017", "val2017"):
            (self.root / split).mkdir(parents=True, exist_ok=True)
            for image in self.data.get("images", ()):
                pixels = random.integers(0, 255, (40, 60, 3), dtype=np.uint8)
                cv2.imwrite(str(self.root / split / image["file_name"]), pixels)
            path = self.annotations(split.removesuffix("2017"))
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(self.data))
        return self.root

    def annotations(self, split: str = "train") -> Path:
        return self.root / "annotations" / f"instances_{split}2017.json"

    def images(self, split: str = "train") -> Path:
        return self.root / f"{split}2017"


@pytest.fixture
def known_run(coco: CocoFolder, tmp_path: Path) -> Path:
    """A detection run on `coco` whose detections have known outcomes: `run_folders.KNOWN`."""
    from run_folders import KNOWN, detection_run

    return detection_run(tmp_path / "runs" / "known", coco.write(), KNOWN)


@pytest.fixture
def voc(tmp_path: Path) -> VocFolder:
    """Three images in Pascal VOC's layout: two objects; a difficult one; none."""
    return VocFolder(tmp_path / "voc")


class VocFolder:
    """A data set that a test edits in memory and then writes; boxes are columns and rows from 1, the last included."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects: dict[str, list[tuple[str, tuple[float, ...]]]] = {
            "a": [("dog", (11, 6, 30, 35)), ("cat", (1, 1, 60, 40))],
            "b": [("cat", (5, 5, 9, 9))],
            "c": [],
        }
        self.difficult = {"b": True}
        self.lists = {"trainval": "a\nc\n", "test": "b\n", "all": "a  1\nb -1\nc  0\n"}

    def write(self) -> Path:
        """Write all files; returns the root."""
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for number, (name, things) in enumerate(self.objects.items()):
            self.xml(name).write_text(self.text(name, things))
            picture = np.full((40, 60, 3), 60 + 30 * number, np.uint8)
            cv2.imwrite(str(self.root / "JPEGImages" / f"{name}.jpg"), picture)
        for name, text in self.lists.items():
            (self.root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
        return self.root

    def xml(self, name: str) -> Path:
        return self.root / "Annotations" / f"{name}.xml"

    def text(self, name: str, things: list[tuple[str, tuple[float, ...]]]) -> str:
        objects = ""
        for label, box in things:
            corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
            hard = int(self.difficult.get(name, False))
            objects += f"<object><name>{label}</name><pose>Left</pose><difficult>{hard}</difficult>"
            objects += f"<bndbox>{corners}</bndbox></object>"
        size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
        return f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"


def _object(identifier: int, *, image: int, category: int, box: list[float], crowd: int = 0) -> dict[str, Any]:
    area = box[2] * box[3]
    return {"id": identifier, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}


@contextmanager
def child_only() -> Iterator[None]:
    """A forked child ends here whatever happens: it must not go on with the parent's tests."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


@dataclass
class Launched:
    """A script that runs, with its streams in files."""

    process: ForkServerProcess
    streams: list[IO[str]]  # output and errors, unless both go to a log

    def end(self) -> tuple[int, str, str]:
        """Exit status (minus the signal that killed it), output and errors, once it has ended."""
        self.process.join(timeout=300)
        if hangs := self.process.exitcode is None:
            os.kill(self.process.pid or 0, signal.SIGABRT)  # faulthandler prints what each thread does
            self.process.join()
        out, errors = map(_read_and_close, self.streams)
        assert not hangs, f"{self.process.name} hangs: {errors}"
        assert self.process.exitcode is not None
        return self.process.exitcode, out, errors


def _read_and_close(stream: IO[str]) -> str:
    with stream:
        stream.seek(0)
        return stream.read()


@pytest.fixture(scope="session")
def launch() -> Callable[..., Launched]:
    """Starts a script of tools/ as a user would, from another folder, in a process of its own.

    The process is forked from one that has imported the libraries already, which saves seconds a call. `first` is
    what it calls before the script, a function of a module. `log` takes both streams.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(LIBRARIES)

    def start(
        name: str,
        *words: Any,
        cwd: Path,
        first: Callable[[], Any] | None = None,
        log: IO[Any] | None = None,
        **environment: str,
    ) -> Launched:
        argv = [str(ROOT / "tools" / name), *map(str, words)]
        env = {"OMP_NUM_THREADS": THREADS, **environment}
        streams = [] if log else [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - closed at the end
        files = [DupFd(stream.fileno()) for stream in streams or [log, log]]
        process = processes.Process(name=" ".join(argv), target=_as_script, args=(argv, str(cwd), env, first, *files))
        process.start()
        return Launched(process, streams)

    return start


class Forked:
    """A forked script with the part of `subprocess.Popen` that experiments use."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid or 0, number)


@pytest.fixture
def forked_jobs(launch: Callable[..., Launched], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Experiments fork their trainings from a process that has imported the libraries, which saves seconds each."""

    def popen(command: list[str], *, stdout: IO[bytes], env: dict[str, str], **_: Any) -> Forked:
        _, path, *words = command
        return Forked(launch(Path(path).name, *words, cwd=tmp_path, first=os.setsid, log=stdout, **env).process)

    monkeypatch.setattr("tools.experiments.jobs.subprocess", forking(popen))


def forking(popen: Callable[..., Forked]) -> SimpleNamespace:
    """Return what stands for the module `subprocess` in experiments."""
    names = {"Popen": popen, "TimeoutExpired": subprocess.TimeoutExpired, "DEVNULL": None, "STDOUT": None}
    return SimpleNamespace(**names)


def fork_trainings() -> None:
    """Let signals reach this process, a launched experiment, and have it fork its trainings from itself."""
    from tools.experiments import jobs

    def popen(command: list[str], *, stdout: IO[bytes], env: dict[str, str], **_: Any) -> Forked:
        stream = _Inherited(stdout.fileno())
        given = (command[1:], os.getcwd(), env, os.setsid, stream, stream)
        process = multiprocessing.get_context("fork").Process(target=_as_script, args=given)
        process.start()
        return Forked(process)

    let_signals_through()
    jobs.subprocess = forking(popen)  # type: ignore[attr-defined]


def let_signals_through() -> None:
    """Have Ctrl-C and SIGTERM reach this process, also where the tests themselves ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass
class _Inherited:
    """A file descriptor that a forked process has already."""

    number: int

    def detach(self) -> int:
        return self.number


@pytest.fixture(scope="session")
def script(launch: Callable[..., Launched]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script of tools/ to its end; see `launch`."""

    def call(name: str, *words: Any, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([name, *words], *launch(name, *words, cwd=cwd, **environment).end())

    return call


def _as_script(
    argv: list[str], cwd: str, environment: dict[str, str], first: Callable[[], Any] | None, out: Any, err: Any
) -> None:
    """Run a script as `python argv` does, with the streams in files."""
    os.dup2(out.detach(), 1)
    os.dup2(err.detach(), 2)
    gc.freeze()  # what the libraries made; a collection would copy the memory that both processes share
    faulthandler.enable()
    os.environ.update(environment)
    os.chdir(cwd)
    multiprocessing.set_start_method("fork", force=True)  # as in a script, whose data workers are forked
    sys.argv, sys.path[:0] = argv, [os.path.dirname(argv[0])]
    sys.dont_write_bytecode = False  # which the process that forks inherited
    avoid_bf16()
    if first is not None:
        first()
    runpy.run_path(argv[0], run_name="__main__")


Group = Callable[..., list[tuple[int, str, str]]]


@pytest.fixture(scope="session")
def group(launch: Callable[..., Launched]) -> Group:
    """Runs a script in processes that know one another, one in each of `cwds`, by the variables that launchers set.

    Processes with a folder in common are on one machine. Gives status, output and errors of each.
    """

    def run(name: str, *words: Any, cwds: Sequence[Path], **environment: str) -> list[tuple[int, str, str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"WORLD_SIZE": len(cwds), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        started = []
        for rank, cwd in enumerate(cwds):
            own = {"RANK": rank, "LOCAL_RANK": cwds[:rank].count(cwd), "LOCAL_WORLD_SIZE": cwds.count(cwd)}
            variables = {name: str(value) for name, value in {**common, **own, **environment}.items()}
            started.append(launch(name, *words, cwd=cwd, **variables))
        _end_with_the_first_to_fail([process.process for process in started])
        return [process.end() for process in started]

    return run


def _end_with_the_first_to_fail(processes: list[ForkServerProcess], patience: float = 30) -> None:
    """Wait for all; kill those that still wait for one of them well after it failed."""
    running, failed = processes, False
    while running:
        ready = wait([process.sentinel for process in running], timeout=patience if failed else 300)
        for process in running if not ready else ():
            process.kill()
        running = [process for process in running if process.sentinel not in ready]
        failed = failed or any(process.exitcode for process in processes)


def write_noise(root: Path, counts: dict[tuple[str, str], int], side: int) -> Path:
    """Write class folders of square images of noise; `counts` has the number of images by split and class."""
    random = np.random.default_rng(0)
    for (split, name), count in counts.items():
        (root / split / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            cv2.imwrite(str(root / split / name / f"{number}.png"), pixels)
    return root


def require_openvino() -> Any:
    """Return OpenVINO's module, or skip the test: OpenVINO cannot resize images without AVX2."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA") == "SSE41":
        pytest.skip("OpenVINO may not use AVX2")
    return pytest.importorskip("openvino")


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height of an image file."""
    with Image.open(path) as image:
        return image.size


def write_classes(root: Path, *, count: int, classes: Sequence[str] = "abc") -> None:
    """`count` pictures of noise in each class of two splits."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(root / split / name / f"{number}.png"), random.integers(0, 255, (32, 32, 3), np.uint8))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills; workers of pytest-xdist share it, so tests only read it."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small edition of the built-in shapes, in COCO's layout."""
    from tools.synthetic import shapes

    options = {"train": 24, "val": 6, "size": 64}
    root = made_once(tmp_path_factory, "shapes", lambda folder: shapes.prepare(folder, **options) and None)
    return shapes.prepare(root, **options)


@pytest.fixture(scope="session")
def tiny_runs(small_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each task, "det", "seg" and "cls", whose evaluation has unusual options.

    Those of "cls" are in the folder's `../pictures`, the others' the shapes.
    """
    folder = made_once(tmp_path_factory, "tiny-runs", lambda folder: train_tiny_runs(folder, small_shapes))
    return {task: folder / task for task in ("det", "seg", "cls")}


def train_tiny_runs(folder: Path, small_shapes: Path) -> None:
    """Train a run of each task for one epoch."""
    from tools import train_cls, train_det, train_seg

    pictures, random = folder / "pictures", np.random.default_rng(0)
    for split, name, count in (("train", "apple", 4), ("train", "pear", 4), ("val", "apple", 3), ("val", "pear", 3)):
        (pictures / split / name).mkdir(parents=True)
        for i in range(count):
            size = (40, 56, 3) if i % 2 else (64, 40, 3)
            cv2.imwrite(str(pictures / split / name / f"{i}.jpg"), random.integers(0, 255, size, np.uint8))
    look = ("--crop-size", 32, "--resize-size", 36, "--interpolation", "bicubic", "--test-crops", "ten")
    det = ("--recipe", "shapes", "--min-size", 80, "--max-size", 80)
    own: dict[str, tuple[Any, ...]] = {
        "det": (*det, "--data", small_shapes, "--fpn-channels", 32, "--freeze", 0, "--test-flip"),
        "seg": ("--data", small_shapes, "--recipe", "shapes", "--test-flip", "--window", 48, "--crop-size", 64),
        "cls": ("--data", pictures, "--recipe", "cifar", *look, "--normalise", "data"),
    }
    own["det"] += ("--backbone", "timm/test_resnet")
    own["seg"] += ("--backbone", "resnet20", "--batch-size", 8)
    own["cls"] += ("--batch-size", 4)
    for task, main in (("det", train_det.main), ("seg", train_seg.main), ("cls", train_cls.main)):
        main([*map(str, (*own[task], "--epochs", 1, "--workers", 0, "--output", folder / task))])
