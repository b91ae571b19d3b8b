"""Tests of downloads, weights files and load reports: verified, safe, complete, or an error of one line."""

import hashlib
import http.server
import os
import pickle
import threading
import time
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import backbones
from backbones.errors import UserError
from backbones.weights import files, loading, network
from backbones.weights import published as downloads
from backbones.weights.files import run_weights
from tools.benchmarks.fork_server import fork_server


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Use an empty cache of torch.hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


@pytest.fixture
def server(tmp_path):
    """Serve a folder over HTTP on this machine: (folder, address, paths requested so far)."""
    folder, gets = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def do_GET(self):
            gets.append(self.path)
            time.sleep(0.3)  # long enough for a second process to ask
            super().do_GET()

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{httpd.server_port}", gets
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


def published(folder: Path, state: dict, stem: str = "resnet18") -> str:
    """Save a state dict under a name that contains its hash, as torchvision does, and return the name."""
    torch.save(state, folder / "plain.pth")
    digest = hashlib.sha256((folder / "plain.pth").read_bytes()).hexdigest()
    return (folder / "plain.pth").rename(folder / f"{stem}-{digest[:8]}.pth").name


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def same(net: nn.Module, state: dict) -> bool:
    return all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


# Downloads


def test_fetch_downloads_once_and_then_reads_the_cache(hub, server):
    folder, address, gets = server
    name = published(folder, {"a": torch.ones(2)})
    first = downloads.fetch(f"{address}/{name}", what="net")
    assert first == hub / name
    assert downloads.fetch(f"{address}/{name}", what="net") == first
    assert gets == [f"/{name}"]
    assert torch.equal(files.read_state(first)["a"], torch.ones(2))


def _fetch(url, environment, queue):
    os.environ.update(environment)
    queue.put(str(downloads.fetch(url, what="net")))


def test_two_processes_fetch_once(hub, server):
    folder, address, gets = server
    name = published(folder, {"a": torch.ones(2)})
    context = fork_server()
    queue = context.Queue()
    given = (f"{address}/{name}", dict(os.environ), queue)
    workers = [context.Process(target=_fetch, args=given) for _ in range(2)]
    for worker in workers:
        worker.start()
    got = [queue.get(timeout=50) for _ in workers]
    for worker in workers:
        worker.join()
    assert got == [str(hub / name)] * 2
    assert gets == [f"/{name}"]
    assert not list(hub.glob("*.partial"))


def test_a_wrong_hash_from_the_server_is_refused_and_not_kept(hub, server):
    folder, address, _ = server
    (folder / "resnet18-00000000.pth").write_bytes(b"something else")
    with pytest.raises(UserError) as error:
        downloads.fetch(f"{address}/resnet18-00000000.pth", what="resnet18")
    assert "resnet18-00000000.pth" in one_line(error) and "weights=FILE" in one_line(error)
    assert not (hub / "resnet18-00000000.pth").exists()


def test_a_cached_file_with_a_wrong_hash_is_named_and_left(hub):
    hub.mkdir(parents=True)
    cached = hub / "resnet18-00000000.pth"
    cached.write_bytes(b"damaged")
    with pytest.raises(UserError) as error:
        downloads.fetch("http://127.0.0.1:9/resnet18-00000000.pth", what="resnet18")
    assert str(cached) in one_line(error) and "move the file away" in one_line(error)
    assert cached.read_bytes() == b"damaged"


def test_an_address_without_a_hash_is_refused(hub):
    with pytest.raises(UserError, match="contains no hash"):
        downloads.fetch("http://127.0.0.1:9/net.pth", what="net")


def test_no_network_names_model_file_cache_and_alternatives(hub, monkeypatch):
    value = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    # Nothing answers at port 9 (discard).
    monkeypatch.setattr(value, "url", f"http://127.0.0.1:9/{value.url.rsplit('/', 1)[-1]}")
    with pytest.raises(UserError) as error:
        backbones.build("resnet18")
    for part in ("resnet18:", "resnet18-f37072fd.pth", str(hub), "weights=None", "weights=FILE"):
        assert part in one_line(error)


def test_a_missing_file_on_the_server_is_reported(hub, server):
    with pytest.raises(UserError, match="404"):
        downloads.fetch(f"{server[1]}/resnet18-00000000.pth", what="resnet18")


def test_a_server_without_answer_times_out(hub, monkeypatch):
    import socket

    monkeypatch.setattr(network, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UserError, match="cannot download"):
            downloads.fetch(f"http://127.0.0.1:{port}/resnet18-00000000.pth", what="resnet18")


def test_imagenet_of_ours_is_torchvisions_file(hub, server, resnet18, monkeypatch):
    folder, address, _ = server
    name = published(folder, resnet18)
    value = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(value, "url", f"{address}/{name}")
    net = backbones.build("resnet18")
    assert same(net, resnet18)
    assert net.load_report.ignored == ("fc.weight", "fc.bias")


def test_an_unknown_tag_lists_the_nets_tags():
    with pytest.raises(UserError) as error:
        downloads.torchvision_state("resnet50", "V3")
    assert "IMAGENET1K_V1, IMAGENET1K_V2" in one_line(error)


# timm


def test_timm_pretrained_without_network(monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    seen = []

    def create():
        seen.append(constants.HF_HUB_OFFLINE)
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError) as error:
        downloads.timm_pretrained(create, name="timm/resnet18")
    for part in ("timm/resnet18.a1_in1k", constants.HF_HUB_CACHE, "weights=None", "weights=FILE"):
        assert part in one_line(error)
    assert seen == [True]  # the cache was asked; the hub's client, with its long retries, was not
    assert constants.HF_HUB_OFFLINE is False


def test_timm_pretrained_goes_to_a_reachable_hub(monkeypatch, server):
    from huggingface_hub import constants

    def create():
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("offline")
        return nn.Linear(1, 1)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server[1])
    assert isinstance(downloads.timm_pretrained(create, name="timm/resnet18"), nn.Linear)


def test_timm_pretrained_says_that_offline_mode_is_set(monkeypatch):
    from huggingface_hub import constants

    def create():
        raise ConnectionError("offline")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        downloads.timm_pretrained(create, name="timm/resnet18")


def test_timm_pretrained_lets_other_errors_through():
    def create():
        raise RuntimeError("shape")

    with pytest.raises(RuntimeError, match="shape"):
        downloads.timm_pretrained(create, name="timm/resnet18")


def test_timms_own_cache_serves_without_network(tmp_path, monkeypatch):
    import timm
    from huggingface_hub import constants

    torch.manual_seed(0)
    reference = timm.create_model("resnet18")
    cache = tmp_path / "models--timm--resnet18.a1_in1k"
    commit = "0" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots" / commit).mkdir(parents=True)
    save_file(reference.state_dict(), cache / "snapshots" / commit / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    net = downloads.timm_pretrained(lambda: timm.create_model("resnet18", pretrained=True), name="timm/resnet18")
    assert same(net, reference.state_dict())
    assert downloads.timm_state("resnet18", "imagenet").keys() == reference.state_dict().keys()


def test_an_unknown_timm_tag_lists_the_nets_tags():
    with pytest.raises(UserError, match=r"timm has no weights 'v9'; choose among .*a1_in1k") as error:
        downloads.timm_state("resnet18", "v9")
    one_line(error)


# Files


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    target, file = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"conv1.weight": torch.zeros(1), "evil": _Malicious(target)}, file)
    with pytest.raises(UserError, match=r"would run code \(\w+\.system\)") as error:
        files.read_state(file)
    assert str(file) in one_line(error)
    assert not target.exists()


def test_a_bare_malicious_pickle_does_not_run_either(tmp_path):
    target, file = tmp_path / "ran", tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps(_Malicious(target), protocol=2))
    with pytest.raises(UserError):
        files.read_state(file)
    assert not target.exists()
    pickle.loads(file.read_bytes())  # proves the test: unrestricted reading runs the code
    assert target.exists()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut off"])
def test_unreadable_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        files.read_state(tmp_path / name)
    assert str(tmp_path / name) in one_line(error)


def test_absent_and_empty_files(tmp_path):
    with pytest.raises(UserError, match="no such weights file"):
        files.read_state(tmp_path / "absent.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(UserError, match="does not contain a state dict"):
        files.read_state(tmp_path / "none.pth")


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_wrappers_are_removed(tmp_path, wrapper):
    state = {"module.conv1.weight": torch.ones(1), "module.fc.bias": torch.ones(2)}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "net.pth")
    assert files.read_state(tmp_path / "net.pth").keys() == state.keys()


def test_averaged_weights_come_first(tmp_path):
    average = {"n_averaged": torch.tensor(7), "module.w": torch.ones(1)}
    torch.save({"model": {"w": torch.zeros(1)}, "model_ema": average}, tmp_path / "net.pth")
    assert files.read_state(tmp_path / "net.pth") == {"module.w": torch.ones(1)}


# Loading


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.model.backbone.", "backbone.body."])
def test_a_whole_checkpoint_loads_into_a_backbone(tmp_path, resnet18, prefix):
    state = {f"{prefix}{k}": v for k, v in resnet18.items() if not k.startswith("fc.")}
    save_file({**state, "rpn.head.weight": torch.ones(1)}, tmp_path / "net.safetensors")
    net = backbones.build("resnet18", weights=tmp_path / "net.safetensors")
    assert same(net, resnet18)
    # 20 convolutions and 20 norms of 4 entries, without num_batches_tracked
    assert len(net.load_report.matched) == 20 + 20 * 4
    assert net.load_report.unexpected == ("rpn.head.weight",) and net.load_report.missing == ()


def test_report_is_one_line_with_all_figures(resnet18):
    net = backbones.build("resnet18", weights=None)
    partial = {k: v for k, v in resnet18.items() if k != "conv1.weight"}
    report = loading.load(net, {**partial, "extra": torch.ones(1)}, source="a file")
    assert str(report) == (
        "a file: matched 99 of 100 entries, 1 missing (conv1.weight), 1 unexpected (extra), 0 reshaped, "
        "2 ignored (fc.weight, fc.bias)"
    )


def test_under_ninety_percent_is_an_error_and_changes_nothing(resnet18):
    net = backbones.build("resnet18", weights=None)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    partial = {
        k: v for k, v in resnet18.items() if not k.startswith("layer4")
    }  # leaves out 5 of 20 convolutions with their norms
    with pytest.raises(UserError, match="matched 75 of 100") as error:
        loading.load(net, partial, source="a file")
    assert "at least 90%" in one_line(error)
    assert same(net, before)
    loading.load(net, partial, source="a file", minimum=0.75)


def test_a_shape_mismatch_is_never_skipped(resnet18):
    net = backbones.build("resnet18", weights=None)
    with pytest.raises(UserError, match=r"layer1.0.conv1.weight is \[1, 64, 3, 3\] in the file") as error:
        loading.load(net, {**resnet18, "layer1.0.conv1.weight": torch.ones(1, 64, 3, 3)}, source="a file")
    one_line(error)


def test_a_classifier_of_other_classes_is_left_and_reported(resnet18):
    net = torchvision.models.resnet18(num_classes=7)
    report = loading.load(net, resnet18, source="a file")
    assert report.ignored == ("fc.weight", "fc.bias") == report.missing


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_input_channels_adapt_as_in_timm(resnet18, channels):
    from timm.models import adapt_input_conv

    net = backbones.build("resnet18", weights=None, in_channels=channels)
    report = loading.load(net, resnet18, source="a file")
    assert report.reshaped == ("conv1.weight",)
    assert torch.equal(net.conv1.weight, adapt_input_conv(channels, resnet18["conv1.weight"].clone()))


def test_adapt_input_names_the_convolution_of_any_net(resnet18):
    net = torchvision.models.resnet18()
    net.conv1 = nn.Conv2d(4, 64, 7, bias=False)
    with pytest.raises(UserError, match=r"conv1\.weight"):
        loading.load(net, resnet18, source="a file")
    report = loading.load(net, resnet18, source="a file", adapt_input="conv1.weight")
    assert report.reshaped == ("conv1.weight",)


def test_norm_counters_load_without_being_counted(resnet18):
    net = backbones.build("resnet18", weights=None)
    report = loading.load(net, {**resnet18, "bn1.num_batches_tracked": torch.tensor(5)}, source="a file")
    assert net.bn1.num_batches_tracked == 5
    assert not any("num_batches_tracked" in k for k in report.matched + report.missing + report.unexpected)


def test_unpublished_weights():
    with pytest.raises(UserError, match="Linear: no published weights 'imagenet'"):
        loading.load(nn.Linear(1, 1), "imagenet")


def test_a_run_without_weights_says_how_to_go_on_in_words_that_a_shell_reads(tmp_path):
    run = tmp_path / "my run"
    run.mkdir()
    (run / "config.yaml").touch()
    with pytest.raises(UserError, match=f"has no .* yet; continue its training with --resume --output '{run}'$"):
        run_weights(run)
