"""Push and pull with a local stand-in for the hub: files, model cards, refusals, and no token in any output."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

import backbones
import classification
import detection
from backbones.errors import UserError
from backbones.trained import find
from backbones.weights import hub as hub_files
from tools import hub
from tools.exports.model_card import public

TOKEN = "hf_" + "secret" * 5


class Hub(BaseHTTPRequestHandler):
    """Answers the requests of the hub's client; every file is sent inside the commit."""

    repositories: dict[str, dict[str, bytes]]
    tokens: set[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid username or password."}, status=401)
        if self.path == "/api/repos/create":
            name = json.loads(body)
            full = f"{name['organization']}/{name['name']}" if name.get("organization") else name["name"]
            self.repositories.setdefault(full, {})
            return self._json({"url": f"http://{self.headers['Host']}/{full}"})
        owner, repo = self.path.split("/")[3:5]
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.repositories[f"{owner}/{repo}"][entry["value"]["path"]] = content
        return self._json(
            {"commitOid": "0" * 40, "commitUrl": f"http://{self.headers['Host']}/{owner}/{repo}/commit/0"}
        )

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        files = self.repositories.get("/".join(parts[:2]))
        if parts == [""]:
            return self._json({})
        if files is None:
            return self._json({"error": "Repository not found"}, status=404, code="RepoNotFound")
        content = files.get(parts[-1])
        if content is None:
            return self._json({"error": "Entry not found"}, status=404, code="EntryNotFound")
        digest = hashlib.sha256(content).hexdigest()
        self.send_response(200)
        for name, value in (("ETag", f'"{digest}"'), ("X-Repo-Commit", digest[:40]), ("Content-Length", len(content))):
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _json(self, value: object, *, status: int = 200, code: str = "") -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {"repositories": {}})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield handler
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def pushed(server: type[Hub], tiny_runs: dict[str, Path]) -> type[Hub]:
    hub.main(["push", "--run", str(tiny_runs["cls"]), "--repo", "me/net", "--license", "mit"])
    return server


def test_a_run_goes_to_the_hub_and_comes_back(pushed: type[Hub], tiny_runs, tmp_path: Path, capsys) -> None:
    assert set(pushed.repositories["me/net"]) == {"model.safetensors", "README.md"}
    hub.main(["pull", "--repo", "me/net", "--output", str(tmp_path / "back")])
    mine, theirs = (classification.load(run, precision="fp32") for run in (tiny_runs["cls"], tmp_path / "back"))
    own = theirs.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in mine.model.state_dict().items())
    assert theirs.classes == mine.classes and theirs.trained.config["test_crops"] == "ten"
    shown = capsys.readouterr()
    assert TOKEN not in shown.out + shown.err
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_the_card_says_data_recipe_figures_licence_and_how_to_load(pushed: type[Hub], tiny_runs) -> None:
    text = pushed.repositories["me/net"]["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "mit"
    assert yaml.safe_load(front)["pipeline_tag"] == "image-classification"
    results = json.loads((tiny_runs["cls"] / "results.json").read_text())
    assert f"| top1 | {round(results['top1'], 4)} |" in body and "| epochs | 1 |" in body
    assert "`pictures`, 2 classes: apple, pear" in body
    assert 'classification.load("hf:me/net")' in body and 'weights="hf:me/net"' in body


def test_no_folder_of_this_machine_is_pushed(pushed: type[Hub], tiny_runs, tmp_path: Path) -> None:
    folder = str(tiny_runs["cls"].parent).encode()
    assert folder in (tiny_runs["cls"] / "model.safetensors").read_bytes()
    assert not any(folder in content for content in pushed.repositories["me/net"].values())
    given = {"data": "/home/me/secret/coco", "lr": 0.1, "model": {"weights": "~/w/a.pth", "backbone": "timm/resnet18"}}
    assert public(given) == {"data": "coco", "lr": 0.1, "model": {"weights": "a.pth", "backbone": "timm/resnet18"}}


def test_weights_by_the_name_of_a_repository(pushed: type[Hub], tiny_runs, monkeypatch) -> None:
    """Every function that takes weights accepts such a name; without a network the cache is used."""
    name = find(tiny_runs["cls"]).meta["model"]["backbone"]
    net = backbones.build(name, weights="hf:me/net")
    assert net.load_report is not None and not net.load_report.missing
    assert not classification.build(name, 2, weights="hf:me/net@main").load_report.missing
    assert classification.load("hf:me/net").classes == ("apple", "pear")
    with pytest.raises(UserError, match=r"detection\.load|is a model for classification"):
        detection.load("hf:me/net")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub_files.fetch("me/net", "model.safetensors").is_file()
    with pytest.raises(UserError, match=r"hf:me/other: cannot download model\.safetensors"):
        backbones.build(name, weights="hf:me/other")


def test_refusals_are_one_line(server: type[Hub], tiny_runs, tmp_path: Path, monkeypatch, capsys) -> None:
    server.repositories["me/empty"] = {}
    (tmp_path / "file").touch()
    server.repositories["me/other"] = {"model.safetensors": b"no weights at all", "README.md": b""}
    run = str(tiny_runs["cls"])
    cases = {
        ("pull", "--repo", "me/nothing", "--output", "x"): "no such repository",
        ("pull", "--repo", "me/empty", "--output", "x"): "has no file model.safetensors",
        ("pull", "--repo", "me/other", "--output", "x"): "is not a complete safetensors file",
        ("pull", "--repo", "../etc", "--output", "x"): "is not the name of a repository on the hub",
        ("pull", "--repo", "me/nothing", "--output", "file"): "--output file: is not a folder; name another",
        ("pull", "--repo", "me/net"): "--output is missing: pull needs a folder",
        ("push", "--repo", "me/net"): "--run is missing: push needs the folder",
        ("push", "--repo", "me/net@v1", "--run", run): "leave @v1 out",
        ("push", "--repo", "me/net", "--run", "nowhere"): "no such run folder",
    }
    monkeypatch.chdir(tmp_path)
    for words, said in cases.items():
        with pytest.raises(UserError, match=said) as caught:
            hub.main(list(words))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="your token gives no access to it") as caught:
        hub.main(["push", "--repo", "me/net", "--run", run])
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no token|your token"):
        hub.main(["push", "--repo", "me/net", "--run", run])


def test_what_is_there_is_kept(pushed: type[Hub], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        hub.main(["pull", "--repo", "me/net", "--output", str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == "precious"
