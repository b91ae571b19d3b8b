"""The local web page: a real server, hostile uploads, and a real browser where there is one."""

from __future__ import annotations

import base64
import io
import json
import shutil
import struct
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from backbones.common.colours import colour_of, ink_on
from backbones.errors import UserError
from tools import demo
from tools.viewer import serving, uploads

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
BROWSER = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
OWN = {"X-Resnet-Transfer": "1"}


@pytest.fixture(scope="module")
def server(tiny_runs: dict[str, Path]) -> Iterator[str]:
    """The address of a server of a detector and of an earlier one."""
    from tools.viewer.app import build_app

    earlier = Path(__file__).resolve().parents[2] / "data" / "earlier_runs" / "det"
    runs = serving.open_runs([str(tiny_runs["det"]), str(earlier)], device="cpu")
    listener = serving.open_socket("127.0.0.1", 0)
    serving_app = uvicorn.Server(uvicorn.Config(build_app(runs, hosts=serving.LOCAL), log_level="critical"))
    thread = threading.Thread(target=serving_app.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not serving_app.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    serving_app.should_exit = True
    thread.join(30)


def ask(address: str, content: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Return status and content, JSON if it is."""
    request = urllib.request.Request(address, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def png(width: int, height: int) -> bytes:
    """An image of any size, of which only the first row is there."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def photo(path: Path | None = None) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(content, "PNG")
    if path is not None:
        path.write_bytes(content.getvalue())
    return content.getvalue()


def test_uploads_are_limited_and_nothing_of_the_machine_is_told(server: str, monkeypatch: pytest.MonkeyPatch):
    run = f"{server}/runs/0/predict"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", photo())
    for content, status, words in (
        (archive.getvalue(), 415, "This is no image of a known type (JPEG, PNG, WEBP, BMP, TIFF)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "This is no image"),
        (b"", 400, "The file is empty."),
        (photo()[:200], 415, "or it is damaged"),
        (png(60_000, 60_000), 413, "The image has more than 40 million pixels."),
        (png(200_000, 200_000), 413, "The image has more than 40 million pixels."),
    ):
        found, answer = ask(run, content, **OWN)
        assert (found, words in answer["error"]) == (status, True), answer
    monkeypatch.setattr(uploads, "MOST_BYTES", 1000)
    assert ask(run, photo(), **OWN) == (413, {"error": "The file has more than 0 MB."})
    monkeypatch.undo()
    assert ask(run, photo()) == (403, {"error": "Use the page."})  # of another web page
    assert ask(f"{server}/runs/7/predict", photo(), **OWN)[0] == 404
    assert ask(server, Host="evil.example")[0] == 400  # a name that was bound to 127.0.0.1
    for path in ("/../../etc/passwd", "/%2e%2e/setup.py", "/page.html", "/runs/-1/predict", "/static/page.js"):
        assert ask(server + path)[0] == 404
    status, known = ask(f"{server}/runs")
    assert [each["name"] for each in known["runs"]] == ["det (1)", "det (2)"] and "/" not in json.dumps(known)
    status, answer = ask(run, photo(), **OWN)
    assert status == 200 and (answer["width"], answer["height"]) == (64, 48)
    assert all(0 <= box["score"] <= 1 and len(box["box"]) == 4 for box in answer["boxes"])


def test_one_detection_is_explained_on_request(server: str):
    best = ask(f"{server}/runs/0/predict", photo(), **OWN)[1]["boxes"][0]
    run = f"{server}/runs/0/explain"
    words = urllib.parse.urlencode({"box": ",".join(map(str, best["box"])), "name": best["name"]})
    status, answer = ask(f"{run}?{words}", photo(), **OWN)
    assert status == 200 and answer["explained"] == best["name"]
    with Image.open(io.BytesIO(base64.b64decode(answer["heat"].partition(",")[2]))) as drawn:
        assert drawn.size == (64, 48)
    assert ask(f"{run}?{words}", photo())[0] == 403
    for wrong in ("", "box=1,2,3&name=a", "box=1,2,3,nan&name=a", "box=a,b,c,d"):
        assert ask(f"{run}?{wrong}", photo(), **OWN) == (400, {"error": "The address names no box."})
    for wrong in ("box=1,2,30,40&name=nothing", f"box=900,900,950,950&name={best['name']}"):
        status, answer = ask(f"{run}?{wrong}", photo(), **OWN)
        assert status == 422 and answer["error"].startswith("This detection cannot be explained: "), answer


def test_label_maps_and_explained_classes_are_answered_as_pictures(tiny_runs: dict[str, Path]):
    labels, ranking = serving.open_runs([str(tiny_runs["seg"]), str(tiny_runs["cls"])], device="cpu")
    pixels = uploads.decode(photo())
    answer = labels.answer(pixels)
    with Image.open(io.BytesIO(base64.b64decode(answer["labels"].partition(",")[2]))) as drawn:
        assert (drawn.size, drawn.mode) == ((64, 48), "RGBA")
    assert all(0 < each["score"] <= 1 for each in answer["classes"])
    found = ranking.answer(pixels)
    assert found["explained"] == found["classes"][0]["name"] and found["heat"].startswith("data:image/png;base64,")
    with pytest.raises(UserError, match="only the detections of a detector can be explained"):
        ranking.explain(pixels, (0, 0, 9, 9), found["explained"])


def test_mistakes_of_the_command_take_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--run: name one run folder, or two to compare them"):
        demo.main([])
    with pytest.raises(UserError, match="empty"):
        demo.main(["--run", str(tmp_path / "empty"), "--port", "0"])
    taken = serving.open_socket("127.0.0.1", 0)
    taken.listen()
    with taken, pytest.raises(UserError, match=r"--port \d+: cannot be used \(.*\); name another address or port"):
        serving.open_socket("127.0.0.1", taken.getsockname()[1])
    monkeypatch.setattr("backbones.common.packages.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"uvicorn: is not installed; pip install 'resnet-transfer\[demo\]'"):
        serving.open_socket("127.0.0.1", 0)
    assert serving.is_loopback("127.0.0.2") and serving.is_loopback("::1") and not serving.is_loopback("0.0.0.0")


def box_centre(page: Any) -> dict[str, float]:
    """The place on the first canvas of the centre of its best box, in CSS pixels."""
    box = page.evaluate("shown[0].panels[0].shown[0].box")
    scale = page.evaluate("shown[0].panels[0].canvas.clientWidth / shown[0].panels[0].answer.width")
    return {"x": (box[0] + box[2]) / 2 * scale, "y": (box[1] + box[3]) / 2 * scale}


MIXED = """() => {
    const before = runs;
    runs = [{ task: "classification" }, { task: "segmentation" }];
    const [canvas, list, caption] = ["canvas", "ul", "p"].map((name) => document.createElement(name));
    const classes = [{ name: "a", score: 0.3 }, { name: "b", score: 0.2 }, { name: "c", score: 0.01 }];
    drawPanel(null, { canvas, list, caption, answer: { task: "classification", width: 8, height: 8, classes } }, 0.6);
    runs = before;
    return list.children.length;
}"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
def test_a_browser_uploads_filters_and_compares(server: str, tmp_path: Path):
    playwright = pytest.importorskip("playwright.sync_api")
    photo(tmp_path / "street.png")
    (tmp_path / "notes.png").write_text("no image")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=quiet)
        for width, scheme in ((1200, "light"), (390, "dark")):
            context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
            page, said, asked = context.new_page(), [], []
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(server)
            page.set_input_files("#files", [tmp_path / "street.png", tmp_path / "notes.png"])
            page.wait_for_selector("#message:not([hidden])")
            assert page.inner_text("#message").startswith("notes.png: This is no image of a known type")
            captions = page.locator("figcaption")
            assert captions.count() == 2 and page.locator(".image h2").inner_text() == "street.png"
            page.fill("#score", "0.05")
            everything = captions.nth(0).inner_text()
            total = int(everything.split(" of ")[1].split()[0])
            assert everything == f"det (1): {total} of {total} detections" and total > 0
            chooser = page.locator(".why select").nth(0)
            assert chooser.locator("option").count() == total + 1
            chooser.select_option(index=1)
            page.wait_for_selector(".heat img")
            assert page.locator(".heat").inner_text().endswith("(Grad-CAM), in the white box")
            page.locator("canvas").nth(0).click(position=box_centre(page))
            page.wait_for_selector("body:not([aria-busy])")
            assert page.locator(".heat img").count() == 1 and not page.is_visible("#message")
            page.screenshot(path=tmp_path / f"{width}-heat.png", full_page=True)
            pen = "shown[0].panels[0].canvas.getContext('2d')"
            size = float(page.evaluate(f"{pen}.font").split()[1].removesuffix("px"))
            assert size * page.evaluate("shrunk(shown[0].panels[0].canvas)") > 11.5  # 12 pixels of the screen, rounded
            colours = ["#{:02x}{:02x}{:02x}".format(*colour_of(number)) for number in range(16)]
            inks = page.evaluate("(colours) => colours.map(inkOn)", colours)
            assert [ImageColor.getrgb(ink) for ink in inks] == [ink_on(ImageColor.getrgb(each)) for each in colours]
            page.fill("#score", "1")
            assert captions.nth(0).inner_text() == f"det (1): 0 of {total} detections"
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(path=tmp_path / f"{width}.png")
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == {"light": "rgb(247, 248, 250)", "dark": "rgb(20, 23, 27)"}[scheme]
            # Beside a label map the slider is an opacity, which hides no class.
            assert page.evaluate(MIXED) == 2
            page.click(".remove")
            assert page.locator(".image").count() == 0 and not page.is_visible("#controls")
            assert said == [] and all(url.startswith((server, "data:", "blob:")) for url in asked)
            context.close()
        browser.close()
