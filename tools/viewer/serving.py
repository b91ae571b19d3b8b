"""Serves the page on a socket, by uvicorn, an optional package."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.common.packages import optional
from backbones.errors import UserError
from tools.viewer.answers import ShownRun

EXTRA = "demo"
LOCAL = ("127.0.0.1", "localhost", "[::1]")


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address. The packages of the server are checked first.

    Raises:
        UserError: a package is not installed, or the address cannot be used.
    """
    for name in ("uvicorn", "starlette"):
        optional(name, extra=EXTRA)
    listener = None
    try:
        listener = socket.socket(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        if listener is not None:
            listener.close()
        raise UserError(
            f"--host {host} --port {port}: cannot be used ({error.strerror}); name another address or port"
        ) from None
    return listener


def open_runs(runs: Sequence[str], *, device: str) -> list[ShownRun]:
    """Load the trained models of runs; their names on the page are those of the folders, with a number if equal.

    Raises:
        UserError: a run has no trained model.
    """
    stems = [Path(run).resolve() for run in runs]
    names = [path.parent.name if path.is_file() else path.name for path in stems]
    return [
        ShownRun(run, name if names.count(name) == 1 else f"{name} ({number})", device=device)
        for number, (run, name) in enumerate(zip(runs, names, strict=True), start=1)
    ]


def serve(runs: Sequence[ShownRun], listener: socket.socket, host: str) -> None:
    """Print the address and serve the page until Ctrl-C or SIGTERM."""
    uvicorn = optional("uvicorn", extra=EXTRA)
    from tools.viewer.app import build_app  # needs the optional packages

    if not is_loopback(host):
        print(f"warning: --host {host}: other machines can use this page, without a password", file=sys.stderr)
    app = build_app(runs, hosts=LOCAL if is_loopback(host) else ["*"])
    shown = f"[{host}]" if ":" in host else host
    print(f"the page is at http://{shown}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host's address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
