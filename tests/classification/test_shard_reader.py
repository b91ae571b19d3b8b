"""Shards from a loopback web server, and from object stores whose programs are stood in for by shell scripts."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backbones.errors import UserError
from classification.data.shard_index import read_index
from classification.data.shard_reader import Sample, Shard, read_shard

BIG = 400_000  # bytes of an image: more than pipes and buffers hold


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One shard of three samples of class 2, 1 and 0."""
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(folder / "val-0.tar", "w") as tar:
        for number in range(3):
            for name, content in ((f"k{number}.jpg", bytes([number]) * BIG), (f"k{number}.cls", b"%d" % (2 - number))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (folder / "shards.json").write_text(json.dumps({"classes": ["a", "b", "c"], "val": {"val-0.tar": 3}}))
    return folder


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder in silence; below /half/ it breaks off in the middle of a file."""

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        if not self.path.startswith("/half/"):
            return super().do_GET()
        content = (Path(self.directory) / self.path.removeprefix("/half/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])


@pytest.fixture
def server(root: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def program(tmp_path: Path, monkeypatch) -> Callable[[str, str], None]:
    """Puts a shell script of a name first on the PATH."""

    def install(name: str, script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


def samples(address: str) -> list[Sample]:
    return list(read_shard(Shard(address, count=3, first=10), classes=3))


def test_samples_of_a_local_shard(root: Path):
    found = samples(str(root / "val-0.tar"))
    assert [(sample.index, sample.label, sample.content[:1], len(sample.content)) for sample in found] == [
        (10, 2, b"\0", BIG), (11, 1, b"\1", BIG), (12, 0, b"\2", BIG),
    ]  # fmt: skip
    assert found[1].name == f"{root}/val-0.tar: k1.jpg"


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_web_server_gives_the_same(root: Path, server: str, slash: str):
    index = read_index(server + slash)
    assert index.classes == ("a", "b", "c")
    assert [shard.address for shard in index.val] == [f"{server}/val-0.tar"]
    local = [sample.content for sample in samples(str(root / "val-0.tar"))]
    assert [sample.content for sample in samples(index.val[0].address)] == local


@pytest.mark.parametrize(
    ("name", "script"),
    [("gs", 'test "$1" = cat && exec cat "$ROOT${2#gs://bucket}"'), ("s3", 'exec cat "$ROOT${4#s3://bucket}"')],
)
def test_object_stores_give_the_same(root: Path, program, monkeypatch, name: str, script: str):
    monkeypatch.setenv("ROOT", str(root))
    program({"gs": "gsutil", "s3": "aws"}[name], script)
    index = read_index(f"{name}://bucket")
    local = [sample.content for sample in samples(str(root / "val-0.tar"))]
    assert [sample.content for sample in samples(index.val[0].address)] == local


def test_a_file_that_the_server_lacks(server: str):
    for read in (samples, read_index):
        with pytest.raises(UserError, match=f"{server}/nothing.*: curl ended with status 22 .*no such file") as error:
            read(f"{server}/nothing")
        assert "\n" not in str(error.value)


def test_a_server_that_is_away():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(UserError, match=rf"{address}/shards.json: .* status 7 \(the server does not answer\)"):
        read_index(address)


def test_a_transfer_that_breaks_off(server: str):
    with pytest.raises(UserError, match=rf"{server}/half/val-0.tar: .* status 18 \(the transfer was cut short\)"):
        samples(f"{server}/half/val-0.tar")


def test_a_program_that_fails(program):
    program("aws", "echo denied >&2; exit 4")
    with pytest.raises(UserError, match=r"s3://bucket/a.tar: cannot be fetched: aws ended with status 4"):
        samples("s3://bucket/a.tar")


def test_a_program_that_is_not_installed(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"gs://bucket/a.tar: can only be read with the program gsutil"):
        samples("gs://bucket/a.tar")


def test_a_stream_left_in_the_middle_ends_its_program(root: Path, program, tmp_path: Path):
    """The script would go on for a minute."""
    program("aws", f"echo $$ > {tmp_path}/pid; cat {root}/val-0.tar; exec sleep 60")
    reading = read_shard(Shard("s3://bucket/a.tar", count=3, first=0), classes=3)
    assert next(reading).label == 2
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)  # it runs
    reading.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
