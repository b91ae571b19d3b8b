"""Look at trained models on a local web page: drop images, move the score, compare two runs side by side.

    python tools/demo.py --run runs/det-20260101-120000
    python tools/demo.py --run runs/a --run runs/b --port 8080

The page is at http://127.0.0.1:8000. Only this machine can open it, unless --host says otherwise. Nothing is kept: an
image is predicted and forgotten. The extra `demo` installs what the server needs. Ctrl-C ends it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.device_options import DeviceOptions
from backbones.errors import require
from tools.cli.arguments import REPEATABLE
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions


@dataclass
class DemoOptions:
    """Runs to look at, and the address of the page.

    Args:
        run: folder or weights file of a training run, an exported file, or the name of a published model such as coco;
            one, or two side by side.
        host: address to listen on. Any other than 127.0.0.1 lets other machines use the page; it has no password.
        port: port of the page; 0 for any free one.
    """

    run: list[str] = field(default_factory=list, metadata=REPEATABLE)
    host: str = "127.0.0.1"
    port: int = 8000

    def __post_init__(self) -> None:
        require(0 < len(self.run) <= 2, "run", self.run, "name one run folder, or two to compare them")
        require(0 <= self.port < 65536, "port", self.port, "must be 0 to 65535")


@dataclass
class DemoGroups:
    """The option groups of the command."""

    demo: DemoOptions
    device: DeviceOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Load the runs and serve the page until Ctrl-C."""
    groups = parse(DemoGroups, description=__doc__, argv=argv)
    print(f"loading {' and '.join(groups.demo.run)} ...", flush=True)

    from tools.viewer.serving import open_runs, open_socket, serve  # imports torch

    groups.plugins.load()
    options = groups.demo
    with open_socket(options.host, options.port) as listener:
        serve(open_runs(options.run, device=groups.device.device), listener, options.host)


if __name__ == "__main__":
    run(main)
