"""Inputs that are no local files: http and https addresses, standard input, cameras and network streams."""

from __future__ import annotations

import http.client
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from backbones.common.images import open_image
from backbones.errors import UserError, first_line

TIMEOUT = 20.0  # seconds without a byte, after which a server counts as unreachable
LONGEST = 600.0  # seconds that one download may take
MOST_BYTES = 1 << 30  # of one download or of standard input
CHUNK = 1 << 20
FETCHED, LIVE = ("http", "https"), ("rtsp", "rtsps", "rtmp", "udp")  # schemes of addresses
STDIN = "-"
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "BMP": ".bmp", "WEBP": ".webp", "GIF": ".gif"}
FORMATS["MPO"] = ".jpg"  # a JPEG with further images, as many telephones write


@dataclass(frozen=True)
class Fetched:
    """A file that was downloaded or read from standard input.

    Attributes:
        path: the local copy, with the suffix of its content.
        name: name of its results.
    """

    path: Path
    name: str


def scheme_of(name: str) -> str:
    """Return the scheme of an address, such as "https"; "" for a path, also for one with a drive letter."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", name)
    return match[1].lower() if match else ""


def fetch(address: str, folder: Path, suffixes: tuple[str, ...]) -> Fetched:
    """Download an image or video of an http or https address.

    Args:
        folder: for the local copy.
        suffixes: those that a file may have. A file with another suffix must be an image by its content.

    Raises:
        UserError: the server does not answer or reports an error, or the content is too large or no image.
    """
    part = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
    target = folder / f"download-{len(list(folder.iterdir()))}"
    try:
        _download(address, target)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(f"{address}: cannot be downloaded ({_reason(error)}); check the address") from None
    suffix = Path(part).suffix.lower()
    path = _renamed(target, suffix if suffix in suffixes else _suffix_of(target, address))
    return Fetched(path, part or "download")


def read_stdin(folder: Path) -> Fetched:
    """Read one image from standard input.

    Raises:
        UserError: there is nothing, or it is no image.
    """
    content = b"" if sys.stdin.isatty() else sys.stdin.buffer.read(MOST_BYTES + 1)
    if not content:
        raise UserError("-: standard input is empty; pipe an image into the command: ... predict - < image.jpg")
    if len(content) > MOST_BYTES:
        raise UserError(f"-: has more than {MOST_BYTES >> 20} MiB; name the file instead")
    target = folder / "stdin"
    target.write_bytes(content)
    return Fetched(_renamed(target, _suffix_of(target, STDIN)), "stdin")


def _download(address: str, target: Path) -> None:
    request = urllib.request.Request(address, headers={"User-Agent": "resnet-transfer"})
    begin, count = time.monotonic(), 0
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, target.open("wb") as file:
        if scheme_of(answer.url) not in FETCHED:
            raise ValueError(f"leads to {answer.url}")
        while chunk := answer.read(CHUNK):
            count += len(chunk)
            if count > MOST_BYTES:
                raise ValueError(f"has more than {MOST_BYTES >> 20} MiB")
            if time.monotonic() - begin > LONGEST:
                raise TimeoutError(f"takes longer than {LONGEST:.0f} s")
            file.write(chunk)
        expected = answer.headers.get("Content-Length", "")
    if expected.isdigit() and int(expected) != count:
        raise ValueError(f"ended after {count} of {expected} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else None
    return reason if isinstance(reason, str) else first_line(error)


def _suffix_of(path: Path, shown: str) -> str:
    """Return the suffix of an image by its content.

    Raises:
        UserError: the file is no image of a known format.
    """
    try:
        with open_image(path) as image:
            return FORMATS[image.format or ""]
    except (OSError, KeyError, SyntaxError, PIL.Image.DecompressionBombError):
        raise UserError(f"{shown}: is no image of a known format ({', '.join(FORMATS)})") from None


def _renamed(path: Path, suffix: str) -> Path:
    return path.rename(path.with_name(path.name + suffix))
