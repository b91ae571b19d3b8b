"""The command line: typed groups, recipes, one-line errors."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from backbones.common.options import option
from backbones.errors import UserError, require
from tools.cli.arguments import POSITIONAL, split_at_dashes
from tools.cli.ending import as_options, run
from tools.cli.parsing import parse, peek_option, to_dict
from tools.cli.plugins import PluginOptions
from tools.engine.options import RunOptions, TrainOptions


@dataclass
class Options:
    """Two groups."""

    train: TrainOptions
    run: RunOptions


def parsed(*words: str, **more) -> Options:
    return parse(Options, description="a script", argv=words, **more)


def test_options_are_flat_and_dashes_do():
    options = parsed("--batch-size", "4", "--lr=0.5", "--eval-only", "--output", "x")
    assert (options.train.batch_size, options.train.lr) == (4, 0.5)
    assert (options.run.eval_only, options.run.output) == (True, "x")
    assert parsed("--eval-only", "false").run.eval_only is False


@dataclass
class CopyOptions:
    """Options of a copy.

    Args:
        source: a file.
        targets: other files.
        level: a number.
        force: a switch.
    """

    source: str = field(metadata=POSITIONAL)
    targets: list[str] = field(default_factory=list, metadata=POSITIONAL)
    level: int = 1
    force: bool = False


@dataclass
class CopyGroups:
    """One group."""

    copy: CopyOptions


@dataclass
class ShownOptions:
    """Options of a command that shows something."""

    pattern: str = field(default="*", metadata=POSITIONAL)


@dataclass
class ShownGroups:
    """One group."""

    shown: ShownOptions


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a", CopyOptions("a")),
        ("a b c", CopyOptions("a", ["b", "c"])),
        ("--level -3 a --force b --force false c", CopyOptions("a", ["b", "c"], -3)),
        ("--source a b --targets c", CopyOptions("a", ["b", "c"])),
        ("a --targets b c --level 2", CopyOptions("a", ["b", "c"], 2)),
        ('a --targets ["b","c"]', CopyOptions("a", ["b", "c"])),
        ("a --force -- -b --level", CopyOptions("a", ["-b", "--level"], force=True)),
        ("7 8", CopyOptions("7", ["8"])),
    ],
)
def test_positional_arguments(words: str, expected: CopyOptions):
    assert parse(CopyGroups, description="", argv=words.split()).copy == expected


def test_a_missing_or_surplus_positional_argument_is_an_error(capsys):
    with pytest.raises(UserError, match="SOURCE: missing"):
        parse(CopyGroups, description="", argv=["--level", "2"])
    with pytest.raises(UserError, match="extra"):
        parsed("extra")
    with pytest.raises(SystemExit):
        parse(CopyGroups, description="Copy 100 %.", argv=["--help", "a"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "[OPTIONS] SOURCE TARGETS..." in shown and "Copy 100 %. Positional arguments: SOURCE TARGETS..." in shown
    assert "--source SOURCE a file. (type: str, required)" in shown
    assert "--targets TARGETS other files. (type: list[str], default: [])" in shown
    assert "--force {true,false} a switch. (default: false)" in shown
    with pytest.raises(SystemExit):
        parse(ShownGroups, description="", argv=["--help"])
    assert "[OPTIONS] [PATTERN]\n" in capsys.readouterr().out


DOCSTRING = """Copy files.

    python tools/copy.py a b      # two files
    python tools/copy.py --all    # the long way round
    python tools/other.py a

The files stay.
"""


@pytest.mark.parametrize(("called", "shown"), [("/x/tools/copy.py", "python tools/copy.py"), ("rt copy", "rt copy")])
def test_the_help_ends_with_the_examples_as_they_are_called(called: str, shown: str, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [called])
    with pytest.raises(SystemExit):
        parse(ShownGroups, description=DOCSTRING, argv=["--help"])
    help_text = capsys.readouterr().out
    assert "\n\nCopy files. Positional" in help_text and "stay" not in help_text
    assert help_text.splitlines()[-4:] == [
        "examples:",
        f"  {f'{shown} a b':<28}  # two files",
        f"  {f'{shown} --all':<28}  # the long way round",
        "  python tools/other.py a",
    ]


def test_arguments_after_dashes_belong_to_another_command():
    assert split_at_dashes(["a", "--b", "--", "--c", "--", "d"]) == (["a", "--b"], ["--c", "--", "d"])
    assert split_at_dashes(["a"]) == (["a"], [])


@dataclass
class PluginGroups:
    """Plugins, and positional arguments beside them."""

    copy: CopyOptions
    plugins: PluginOptions


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a", []),
        ("a --plugin x.py", ["x.py"]),
        ("--plugin x.py a b --plugin=my.nets", ["x.py", "my.nets"]),
        ('--plugin ["x.py","y.py"] a --plugin z.py', ["x.py", "y.py", "z.py"]),
        ("a -- --plugin x.py", []),
    ],
)
def test_an_option_may_be_repeated(words: str, expected: list[str]):
    options = parse(PluginGroups, description="", argv=words.split())
    assert (options.copy.source, options.plugins.plugin) == ("a", expected)


def test_a_config_file_names_plugins_but_only_the_command_line_imports_them(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("plugin: [x.py]\n")
    config = ["--config", str(tmp_path / "c.yaml"), "a"]
    with pytest.raises(UserError, match=r"c\.yaml: .* plugins that are not loaded: 'x\.py'; .*--plugin x\.py"):
        parse(PluginGroups, description="", argv=config)
    assert parse(PluginGroups, description="", argv=[*config, "--plugin", "y.py"]).plugins.plugin == ["y.py"]
    with pytest.raises(UserError, match="plugin"):
        parse(PluginGroups, description="", argv=["a", "--plugin"])


def test_plugins_are_imported_on_request_only(tmp_path: Path):
    file = tmp_path / "plugin_of_a_command.py"
    file.write_text("raise RuntimeError('imported')\n")
    options = parse(PluginGroups, description="", argv=["a", "--plugin", str(file)]).plugins
    with pytest.raises(UserError, match="line 1: RuntimeError: imported"):
        options.load()


def test_recipe_then_config_then_command_line(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("epochs: 2\nbatch_size: 2\nlr: 0.2\n")
    (tmp_path / "mine.yaml").write_text("batch_size: 3\nlr: 0.3\n")
    file, lr = ("--config", str(tmp_path / "mine.yaml")), ("--lr", "0.4")
    for words in ((*file, *lr), (*lr, *file), (*lr, f"--config={file[1]}")):  # wherever the file stands
        options = parsed(*words, recipe=lambda _: tmp_path / "recipe.yaml")
        assert (options.train.epochs, options.train.batch_size, options.train.lr) == (2, 3, 0.4)


def test_saved_options_read_back(tmp_path: Path):
    options = parsed("--milestones", "[0.5, 0.75]", "--lr", "1e-3")
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in to_dict(options).items()}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert parsed("--config", str(tmp_path / "config.yaml")) == options


def test_option_peeks_at_command_line_and_config(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("data: there\n")
    assert peek_option(["--data", "here"], "data") == "here"
    assert peek_option(["--data=here", "--config", str(tmp_path / "c.yaml")], "data") == "here"
    assert peek_option(["--config", str(tmp_path / "c.yaml")], "data") == "there"
    assert peek_option(["--epochs", "3"], "data") is None


WRONG = {
    "--lr -1": "--lr -1.0: must be above 0",
    "--lr abc": "--lr abc: expected float or null",
    "--epochs 1.5": "--epochs 1.5: expected int",
    "--schedule linear": "--schedule linear: expected one of step, cosine, constant",
    "--epochs 0": "--epochs 0: must be above 0",
    "--ema 1": "--ema 1.0: must be at least 0 and below 1",
    "--milestones [0.9,0.5]": "--milestones (0.9, 0.5): must be two rising fractions",
    "--seed -1": "--seed -1: must be 0 or above",
    "--workers -2": "--workers -2: must be 0 or above",
    "--nonsense 3": "--nonsense",
    "--config absent.yaml": "--config absent.yaml: cannot be read",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_options_are_named_in_one_line(words: str):
    with pytest.raises(UserError) as error:
        parsed(*words.split())
    assert WRONG[words] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"epochs: [1\n", b"- 1\n", b"", b"\xff\xfe\x00"])
def test_a_config_that_is_no_mapping(tmp_path: Path, content: bytes):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(UserError, match="--config"):
        parsed("--config", str(tmp_path / "c.yaml"))


def test_a_users_mistake_ends_with_status_2_and_one_line(capsys):
    def main():
        raise UserError("Caught UserError in DataLoader\nTraceback ...\nbackbones.errors.UserError: a.jpg: cut\nshort")

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: a.jpg: cut short\n"


@pytest.mark.parametrize(
    ("library", "command"),
    [
        ("use weights=None, or weights=FILE with a file", "use --weights none, or --weights FILE with a file"),
        ("net: norm='frozen' with weights=None would", "net: --norm frozen with --weights none would"),
        ("in_channels=0: expected", "--in-channels 0: expected"),
        ("unknown weights_from 'moko': did you mean moco?", "unknown --weights-from 'moko': did you mean moco?"),
        ("build it with `build(..., weights=FILE)`", "build it with `build(..., weights=FILE)`"),
        ("runs/norm=group/model.pth: damaged", "runs/norm=group/model.pth: damaged"),
    ],
)
def test_messages_of_the_library_name_options_on_the_command_line(library: str, command: str):
    assert as_options(library) == command


def test_a_bug_keeps_its_traceback():
    def main():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(main)


@dataclass
class Renamed:
    """An option that had another name."""

    tile: int = option(0, formerly="window")
    scale: float = 1.0


@dataclass
class RenamedGroups:
    """Groups of the test below."""

    group: Renamed


def test_former_names_work_on_the_command_line_and_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "old.yaml").write_text("window: 5\nscale: 2\n")
    config = ["--config", str(tmp_path / "old.yaml")]

    def parsed_with(*argv: str, **more: Any) -> Renamed:
        return parse(RenamedGroups, description="", argv=argv, **more).group

    assert parsed_with("--window", "7") == parsed_with("--tile=7") == Renamed(7)
    assert parsed_with(*config) == Renamed(5, 2.0)
    assert parsed_with(*config, "--tile", "6") == parsed_with("--window=6", *config) == Renamed(6, 2.0)
    assert parsed_with("--scale", "3", recipe=lambda _: tmp_path / "old.yaml") == Renamed(5, 3.0)
    with pytest.raises(UserError, match="--tile many: expected int"):
        parsed_with("--window", "many")
    # The help shows the defaults of the recipe, under the present names.
    with pytest.raises(SystemExit):
        parsed_with("--help", recipe=lambda _: tmp_path / "old.yaml")
    shown = capsys.readouterr().out
    assert "(type: int, default: 5)" in shown and "(type: float, default: 2)" in shown
    assert f"\nThe defaults above are those of {tmp_path / 'old.yaml'}\n" in shown


def test_help_and_errors_name_options_with_dashes(capsys: pytest.CaptureFixture[str]):
    from tools import train_cls

    with pytest.raises(SystemExit) as end:
        train_cls.main(["--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0 and "--batch-size" in shown and "--print-config" in shown
    assert not re.search(r"--[a-z]+_", shown.partition("\nexamples:\n")[0])
    for name in ("--batch-size", "--batch_size"):
        with pytest.raises(UserError, match=r"^--batch-size few: expected int; see --help$"):
            train_cls.main([name, "few"])
    with pytest.raises(UserError, match=r"--no-such-option"):
        train_cls.main(["--no_such_option", "3"])


@dataclass
class Listed:
    """Options with lists and a switch."""

    sides: list[int] | None = None
    names: list[str] | None = None
    scales: list[float] = field(default_factory=list)
    draw: bool = False
    file: str | None = None

    def __post_init__(self) -> None:
        require(not self.draw, "draw", self.draw, "needs --file")
        require(self.file != "", "file", self.file, "name a file")


@dataclass
class ListedGroups:
    """Groups of the test below."""

    group: Listed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--sides", "640,800"), "--sides 640,800: expected a list such as [1,2] or null; see --help"),
        (("--sides", "[1,a]"), "--sides [1, 'a']: expected a list such as [1,2] or null; see --help"),
        (("--names", "a,b"), "--names a,b: expected a list such as [a,b] or null; see --help"),
        (("--sidse", "3"), "unrecognized arguments: --sidse 3; did you mean --sides?"),
        (("--zzz",), "unrecognized arguments: --zzz; see --help"),
        (("--sides",), "--sides: has no value; write one after it; see --help"),
        (("--draw",), "--draw: needs --file"),
        (("--file=",), "--file: name a file"),
    ],
)
def test_errors_of_the_command_line_say_what_to_write(argv: tuple[str, ...], message: str):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        parse(ListedGroups, description="", argv=argv)
