"""Gives network access short timeouts, because libraries that download weights would otherwise retry for minutes."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from backbones.errors import first_line

TIMEOUT = 10.0  # seconds without a byte, after which a server counts as unreachable

# HTTP libraries that the client of the Hugging Face hub uses. Their errors have no common base class.
_HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "huggingface_hub")


def check_reachable(url: str) -> None:
    """Raise an OSError unless the server answers within `TIMEOUT` seconds. Any HTTP status counts as an answer."""
    failures: list[OSError] = [TimeoutError(f"no answer within {TIMEOUT:.0f} s")]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "torch.hub"})
            urllib.request.urlopen(request, timeout=TIMEOUT).close()
            failures.clear()
        except urllib.error.HTTPError:
            failures.clear()
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: it is no address
            failures[:] = [error if isinstance(error, OSError) else OSError(first_line(error))]

    # Ask in a thread: the resolution of a host name has no timeout and may take most of a minute.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if failures:
        raise failures[0]


@contextmanager
def socket_timeout() -> Iterator[None]:
    """Context manager that sets the timeout of all sockets to `TIMEOUT`, because torch.hub has no parameter for it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def is_network_error(error: Exception) -> bool:
    """Return whether an error was raised by the network connection or by the client of the Hugging Face hub."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _HTTP_LIBRARIES
