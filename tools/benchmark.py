"""Measure ours beside the libraries that people would take instead.

    python tools/benchmark.py classify --output runs/bench               # speed and memory of classification nets
    python tools/benchmark.py classify --nets "resnet*" --batch 8 --precision both --output runs/bench-resnets
    python tools/benchmark.py detect --output runs/bench-detect          # detectors beside torchvision's
    python tools/benchmark.py segment --output runs/bench-segment        # segmentation nets beside torchvision's
    python tools/benchmark.py load --data coco --output runs/bench-load  # training pipelines beside the PIL presets
    python tools/benchmark.py evaluate --output runs/bench-evaluate      # COCO's metrics beside pycocotools
    python tools/benchmark.py memory --output runs/bench-memory          # training steps, loader workers
    python tools/benchmark.py scale --output runs/bench-scale            # how costs grow
    python tools/benchmark.py processes --output runs/bench-processes    # what processes send
    python tools/benchmark.py classify --help                            # the options of one benchmark

Every benchmark prints its tables and leaves `table.md`, `results.json` and `chart.png` in the output folder; the first
two are written again after each net, and say whether all was measured.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli.ending import run
from tools.cli.parsing import parse

# Each module has `Options`, option groups of which one is `measuring: benchmark_options.Measuring`, and a class
# `Benchmark`: built from the options it checks them, `precisions` are those to rate the machine in, and
# `run(machine)` yields a benchmark_report.Report after each part of the work.
BENCHMARKS = {
    "classify": "tools.benchmarks.classify",
    "detect": "tools.benchmarks.detect",
    "segment": "tools.benchmarks.segment",
    "load": "tools.benchmarks.load",
    "evaluate": "tools.benchmarks.evaluate",
    "memory": "tools.benchmarks.memory",
    "scale": "tools.benchmarks.scale",
    "processes": "tools.benchmarks.processes",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Pick the benchmark, describe the machine, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    if not argv or argv[0] not in BENCHMARKS:
        raise UserError(f"{argv[0] if argv else 'benchmark'}: name a benchmark first; there is {', '.join(BENCHMARKS)}")
    home = import_module(BENCHMARKS[argv[0]])
    options = parse(home.Options, description=(home.__doc__ or "").splitlines()[0], argv=argv[1:])
    if hasattr(options, "plugins"):
        options.plugins.load()
    folder = free_folder(options.measuring.output)

    from backbones.common.loading import cores
    from tools.benchmarks.machine import describe, set_up
    from tools.benchmarks.output import write

    threads = options.measuring.threads = options.measuring.threads or cores()
    set_up(threads)
    benchmark = home.Benchmark(options)
    create(folder)
    machine = describe(threads=threads, precisions=benchmark.precisions)
    header = {"command": f"python tools/benchmark.py {shlex.join(argv)}", **machine}
    for report in benchmark.run(machine):
        write(folder, header, report, complete=False)
    print(write(folder, header, report, complete=True))
    print(f"\ntable, figures and chart are in {folder}")


def free_folder(output: str) -> Path:
    """The output folder, which nothing lies in yet.

    Raises:
        UserError: it holds files.
    """
    folder = Path(output)
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--output {folder}: holds files already; name a new folder")
    return folder


def create(folder: Path) -> None:
    """Create the output folder.

    Raises:
        UserError: where it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be created ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output {folder}: cannot be written; name another folder")


if __name__ == "__main__":
    run(main)
