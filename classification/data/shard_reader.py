"""Reading one tar shard from a disk, a web server or an object store; webdataset opens, untars and groups.

What it lacks is added here: a shard that ends too early is an error and not a shorter data set, an error is one line
that names the shard and the sample, and `s3://` addresses are read with Amazon's own program.
"""

from __future__ import annotations

import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from backbones.common.datasets import PIXEL_SUFFIXES
from backbones.errors import UserError

IMAGES = tuple(suffix[1:] for suffix in PIXEL_SUFFIXES)
CLASS = "cls"
DRAIN = 1 << 16  # bytes
PATIENCE = 10.0  # seconds for a download program to end once nobody listens to it
LEFT = (0, 23, 141, -13)  # exit statuses of a program that is well, or whose output nobody took
STATUS = {
    ("curl", 6): "the server's name is not known",
    ("curl", 7): "the server does not answer",
    ("curl", 18): "the transfer was cut short",
    ("curl", 22): "the server has no such file or refuses it",
    ("curl", 28): "the server is too slow",
    ("curl", 56): "the connection broke",
}


@dataclass(frozen=True)
class Shard:
    """One tar file.

    Args:
        address: path or URL.
        count: samples in it.
        first: number of its first sample among all samples of the split.
    """

    address: str
    count: int
    first: int


@dataclass(frozen=True)
class Sample:
    """One image as it lies in the shard, undecoded.

    Args:
        index: its number among all samples of the split.
        label: number of its class.
        name: shard and file, for errors.
        content: bytes of the image file.
    """

    index: int
    label: int
    name: str
    content: bytes


def read_shard(shard: Shard, classes: int) -> Iterator[Sample]:
    """The samples of a shard, in its order.

    Args:
        classes: how many classes there are; a label lies below it.

    Raises:
        UserError: naming the shard, where it is missing, unreachable, damaged, cut short or longer than `count`,
            and the sample as well, where it has no image, or no class among the known ones.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with opened(shard.address) as stream:
        seen = 0
        files = tar_file_expander([{"url": shard.address, "stream": stream}])
        for place, fields in enumerate(group_by_keys(files, suffixes={*IMAGES, CLASS})):
            if place == shard.count:
                raise UserError(
                    f"{shard.address}: holds more than its {shard.count} samples; the list of counts (shards.json) is "
                    "of other shards: write it again"
                )
            yield _sample(fields, shard, shard.first + place, classes)
            seen = place + 1
        if seen < shard.count:  # tarfile takes an end between two files, or in a header, for a proper one
            raise tarfile.ReadError(f"{seen} of {shard.count} samples")


@contextmanager
def opened(address: str) -> Iterator[IO[bytes]]:
    """A file or URL as a stream of bytes; what goes wrong while it is read becomes a UserError naming `address`."""
    stream = _open(address)
    try:
        yield stream
        while stream.read(DRAIN):  # padding behind the last file: a program cut off there would end with an error
            pass
        stream.close()
    except UserError:
        raise
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise UserError(f"{address}: {_reason(stream, error)}") from None
    finally:
        _drop(stream)


def _open(address: str) -> Any:
    from webdataset.gopen import gopen, gopen_schemes

    gopen_schemes.setdefault("s3", _open_s3)
    try:
        return gopen(address)
    except FileNotFoundError as error:
        if "://" in address:
            raise UserError(f"{address}: needs the program {error.filename} to be read; install it") from None
        raise UserError(f"{address}: no such file; copy it there, or write the list of shards again") from None
    except OSError as error:
        raise UserError(f"{address}: cannot be read ({error.strerror}); check the path and its rights") from None


def _open_s3(address: str, mode: str = "rb", bufsize: int = 8192) -> Any:
    from webdataset.gopen import Pipe

    return Pipe(["aws", "s3", "cp", "--only-show-errors", address, "-"], mode=mode, bufsize=bufsize)


def _reason(stream: Any, error: Exception) -> str:
    """What an error while reading comes from: the program that fetches the bytes, or else the bytes."""
    process = getattr(stream, "proc", None)
    if process is not None:
        stream.stream.close()
        program, status = process.args[0], _end(process)
        if status not in LEFT:
            meaning = STATUS.get((program, status), "see its own message above, if any")
            return f"cannot be fetched: {program} ended with status {status} ({meaning}); check address and network"
    if isinstance(error, OSError) and not isinstance(error, tarfile.TarError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    text = str(error.args[0] if error.args else error).split(" @ ")[0]
    return f"damaged or cut short ({text}); copy or write it again"


def _end(process: subprocess.Popen) -> int:
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:  # waits for a server
        process.kill()
        return process.wait()


def _drop(stream: Any) -> None:
    """Close a stream that may have been left in the middle, where a program's status says nothing."""
    process = getattr(stream, "proc", None)
    if process is None:
        stream.close()
    else:
        stream.stream.close()
        process.terminate()
        _end(process)


def _sample(fields: dict[str, Any], shard: Shard, index: int, classes: int) -> Sample:
    where = f"{shard.address}: sample {fields['__key__']}"
    suffixes = [suffix for suffix in IMAGES if suffix in fields]
    if len(suffixes) != 1:
        found = " and ".join(f".{suffix}" for suffix in suffixes) or "no image"
        raise UserError(f"{where}: has {found}; each sample has one of .{', .'.join(IMAGES)} (and no dot in its key)")
    if CLASS not in fields:
        raise UserError(f"{where}: has no class (.cls) beside its image, or the shard is cut short; write it again")
    label = fields[CLASS].decode("ascii", "replace").strip()
    if not label.isascii() or not label.isdigit() or int(label) >= classes:
        raise UserError(
            f"{where}: class {label[:20]!r} is no number from 0 to {classes - 1}; mend it or the class list"
        )
    name = f"{shard.address}: {fields['__key__']}.{suffixes[0]}"
    return Sample(index, int(label), name, fields[suffixes[0]])
