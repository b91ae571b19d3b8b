"""Measure the speed and memory of this project, compared with other libraries.

    python tools/benchmark.py classify --output runs/bench               # speed and memory of classification models
    python tools/benchmark.py classify --nets "resnet*" --batch 8 --precision both --output runs/bench-resnets
    python tools/benchmark.py detect --output runs/bench-detect          # detectors, compared with torchvision's
    python tools/benchmark.py segment --output runs/bench-segment        # compared with torchvision's models
    python tools/benchmark.py load --data coco --output runs/bench-load  # training pipelines of both libraries
    python tools/benchmark.py evaluate --output runs/bench-evaluate      # COCO's metrics with several libraries
    python tools/benchmark.py memory --output runs/bench-memory          # memory of training steps and loader workers
    python tools/benchmark.py scale --output runs/bench-scale            # how time grows with size
    python tools/benchmark.py processes --output runs/bench-processes    # bytes that processes send
    python tools/benchmark.py latency --output runs/bench-latency        # PyTorch, onnxruntime and OpenVINO on the CPU
    python tools/benchmark.py classify --help                            # the options of one benchmark

Every benchmark prints its tables and writes `table.md`, `results.json` and `chart.png` into the output folder. The
first two are written again after each part of the work, and say whether the benchmark is complete.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.benchmarks.subcommands import BENCHMARKS
from tools.cli.ending import run
from tools.cli.parsing import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Choose the benchmark, measure, and write its results after each measured part."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    if not argv or argv[0] not in BENCHMARKS:
        what = f"{argv[0]}: is not a benchmark" if argv else "tools/benchmark.py: no benchmark is named"
        raise UserError(f"{what}; begin with one of {', '.join(BENCHMARKS)}")
    chosen = BENCHMARKS[argv[0]]
    kinds = {"subject": chosen.subject, "timing": chosen.timing, "plugins": chosen.plugins, "device": chosen.device}
    options: Any = parse(
        make_dataclass("OptionGroups", [(name, kind) for name, kind in kinds.items() if kind]),
        description=chosen.description,
        argv=argv[1:],
        subcommand=argv[0],
    )

    # Everything below imports torch.
    from backbones.common.devices import AUTO
    from backbones.common.machine import cores
    from tools.benchmarks import machine, output
    from tools.engine.run_folder import choose_results, create_results

    folder = choose_results(options.timing.output, prefix="benchmark")
    if chosen.plugins:
        options.plugins.load()
    threads = options.timing.threads = options.timing.threads or cores()
    machine.set_up(threads, options.device.device if chosen.device else AUTO)
    benchmark: output.Benchmark = resolve_name(chosen.benchmark)(options.subject, options.timing)
    create_results(folder)
    facts = machine.describe(threads=threads, precisions=benchmark.precisions)
    command = f"python tools/benchmark.py {shlex.join(argv)}"
    for report in benchmark.run(facts):
        output.write(folder, command, facts, report, complete=False)
    print(output.write(folder, command, facts, report, complete=True))
    print(f"\ntables, figures and chart are in {folder}")


if __name__ == "__main__":
    run(main)
