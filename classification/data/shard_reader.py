"""Reads one tar shard from a disk, a web server or an object store, with webdataset.

This module adds to webdataset: a shard that ends too early is an error and not a smaller data set, errors are one line
that names the shard and the sample, and `s3://` addresses are read with the program `aws`.
"""

from __future__ import annotations

import subprocess
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from backbones.common.suffixes import PIXEL_SUFFIXES
from backbones.errors import UserError

IMAGES = tuple(suffix[1:] for suffix in PIXEL_SUFFIXES)
CLASS = "cls"
CHUNK = 1 << 16  # bytes
PATIENCE = 10.0  # seconds to wait for the end of a download program whose output is no longer read
# Exit statuses of a program that succeeded, or whose output was not read to the end.
HARMLESS = (0, 23, 141, -13)
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

    Attributes:
        address: path or URL.
        count: number of samples in it.
        first: index of its first sample among all samples of the split.
    """

    address: str
    count: int
    first: int


@dataclass(frozen=True)
class Sample:
    """One image of a shard, as the bytes of its file.

    Attributes:
        index: its index among all samples of the split.
        label: number of its class.
        name: shard and file, for messages.
        content: bytes of the image file.
    """

    index: int
    label: int
    name: str
    content: bytes


def read_shard(shard: Shard, classes: int) -> Iterator[Sample]:
    """Yield the samples of a shard in its order.

    Args:
        shard: the shard.
        classes: number of classes; every label must be smaller.

    Raises:
        UserError: the shard is missing, unreachable, damaged, cut short or longer than `count`, or a sample has no
            image or no label below `classes`.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with opened(shard.address) as stream:
        seen = 0
        files = tar_file_expander([{"url": shard.address, "stream": stream}])
        # A sample is the consecutive files of one key, such as 0001.jpg and 0001.cls.
        for number, fields in enumerate(group_by_keys(files, suffixes={*IMAGES, CLASS})):
            if number == shard.count:
                raise UserError(
                    f"{shard.address}: contains more than the {shard.count} samples that shards.json "
                    "lists; write shards.json again"
                )
            yield _sample(fields, shard, shard.first + number, classes)
            seen = number + 1
        # tarfile accepts an end between two files, or within a header, so count the samples.
        if seen < shard.count:
            raise tarfile.ReadError(f"{seen} of {shard.count} samples")


@contextmanager
def opened(address: str) -> Iterator[IO[bytes]]:
    """Context manager that opens a file or URL as a stream of bytes and closes it.

    Raises:
        UserError: the address cannot be opened, or an error occurs while the stream is read.
    """
    stream = _open(address)
    try:
        yield stream
        # Read the padding after the last file: otherwise a download program would fail to write it.
        while stream.read(CHUNK):
            pass
        stream.close()
    except UserError:
        raise
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise UserError(f"{address}: {_reason(stream, error)}") from None
    finally:
        _close(stream)


def _open(address: str) -> Any:
    """Open an address with webdataset. The stream is a file, or a `Pipe` that reads from a download program."""
    from webdataset.gopen import gopen, gopen_schemes

    gopen_schemes.setdefault("s3", _open_s3)
    try:
        return gopen(address)
    except FileNotFoundError as error:
        if "://" in address:
            raise UserError(
                f"{address}: can only be read with the program {error.filename}; install that program"
            ) from None
        raise UserError(f"{address}: no such file; copy the shard there, or write the list of shards again") from None
    except OSError as error:
        raise UserError(f"{address}: cannot be read ({error.strerror}); check the path and its permissions") from None


def _open_s3(address: str, mode: str = "rb", bufsize: int = 8192) -> Any:
    from webdataset.gopen import Pipe

    return Pipe(["aws", "s3", "cp", "--only-show-errors", address, "-"], mode=mode, bufsize=bufsize)


def _reason(stream: Any, error: Exception) -> str:
    """Describe why reading failed: because of the download program, the file system or the content."""
    process = getattr(stream, "proc", None)
    if process is not None:
        stream.stream.close()
        program, status = process.args[0], _end(process)
        if status not in HARMLESS:
            meaning = STATUS.get((program, status), "see its own message above, if any")
            return f"cannot be fetched: {program} ended with status {status} ({meaning}); check address and network"
    if isinstance(error, OSError) and not isinstance(error, tarfile.TarError) and error.strerror:
        return f"cannot be read ({error.strerror}); check the disk and the file's permissions"
    text = str(error.args[0] if error.args else error).split(" @ ")[0]
    return f"is damaged or truncated ({text}); copy or write the shard again"


def _end(process: subprocess.Popen) -> int:
    """Wait until a program ends, kill it after `PATIENCE` seconds, and return its exit status."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _close(stream: Any) -> None:
    """Close a stream, even if it was not read to its end, and stop its download program, if it has one."""
    process = getattr(stream, "proc", None)
    if process is None:
        stream.close()
    else:
        stream.stream.close()
        process.terminate()
        _end(process)


def _sample(fields: Mapping[str, Any], shard: Shard, index: int, classes: int) -> Sample:
    """Check the files of one sample, which have the same key, and return the sample."""
    where = f"{shard.address}: sample {fields['__key__']}"
    suffixes = [suffix for suffix in IMAGES if suffix in fields]
    if len(suffixes) != 1:
        found = " and ".join(f".{suffix}" for suffix in suffixes) or "no image"
        raise UserError(
            f"{where}: has {found}; give each sample exactly one image (.{', .'.join(IMAGES)}) and a key without dots"
        )
    if CLASS not in fields:
        raise UserError(f"{where}: has an image but no class (.cls), or the shard is truncated; write the shard again")
    label = fields[CLASS].decode("ascii", "replace").strip()
    if not label.isascii() or not label.isdigit() or int(label) >= classes:
        raise UserError(
            f"{where}: class {label[:20]!r} is not a number from 0 to {classes - 1}; fix the class or the "
            "list of classes"
        )
    name = f"{shard.address}: {fields['__key__']}.{suffixes[0]}"
    return Sample(index, int(label), name, fields[suffixes[0]])
