"""TODO-DOC backbones/weights/network.py."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from backbones.errors import first_line

_TIMEOUT = 10.0  # seconds without a byte, after which a server counts as unreachable


# The hub's client speaks through these; their errors have no base class in common.
_HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "huggingface_hub")


def _check_reachable(url: str) -> None:
    """Raise an OSError unless the server answers, whatever it says; takes `_TIMEOUT` at most.

    In a thread, because the look-up of a name knows no timeout and may take the better part of a minute.
    """
    failures: list[OSError] = [TimeoutError(f"no answer within {_TIMEOUT:.0f} s")]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "torch.hub"})
            urllib.request.urlopen(request, timeout=_TIMEOUT).close()
            failures.clear()
        except urllib.error.HTTPError:
            failures.clear()
        except (OSError, http.client.HTTPException) as error:
            failures[:] = [error if isinstance(error, OSError) else OSError(first_line(error))]

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    if failures:
        raise failures[0]


@contextmanager
def _socket_timeout() -> Iterator[None]:
    # urlopen inside torch.hub takes no timeout of its own
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _is_network(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _HTTP_LIBRARIES
