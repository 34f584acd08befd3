"""One vocabulary: the same option has the same name, form and default in every command, and old names go on working."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mmx.cli import options
from mmx.cli.command import Command
from mmx.cli.main import ENTRIES, main, mmx
from mmx.runtime.backends import NAMES
from mmx.runtime.to_json import to_json

# Where a command means something of its own by a shared name, or has another default, and why.
OTHER_FORM = {
    ("bench", "--threads"): "a list, each measured",
    ("export", "--dataset"): "may be a name of one's own",
    ("inspect", "--dataset"): "may be a name of one's own",
    ("package", "--backend"): "what Triton runs",
    ("package", "--precision"): "a graph that is there: nothing is chosen on this machine",
    ("profile", "--precision"): "a graph that is there: a measurement names what it measures",
    ("build-engine", "--precision"): "a new engine's",
    ("synth", "--samples"): "may be 0, for clips alone",
    ("data check", "--samples"): "may be 0: no clip is opened",
    ("prepare", "--compat"): "as the notebooks do it, which is another thing than as the loader does",
}
OTHER_DEFAULT = {
    ("bench", "--backends"): "those that run without an engine",
    ("bench", "--threads"): "1: measurements are of one thread",
    ("profile", "--threads"): "1: measurements are of one thread",
    ("transcribe", "--threads"): "1: the recogniser gains nothing from more on short speech",
    ("serve", "--workers"): "2: the other cores are the network's",
    ("package", "--workers"): "2, as mmx serve",
    ("build-engine", "--batch-size"): "8: a profile has a largest batch",
    ("build-engine", "--precision"): "none: an engine has to be asked for",
    ("package", "--backend"): "onnxruntime: Triton chooses none",
    ("package", "--precision"): "fp32: nothing is chosen on this machine",
    ("profile", "--precision"): "fp32: a measurement names what it measures",
    ("optimize", "--samples"): "enough to score, few enough to time",
    ("serve", "--file-seconds"): "as --deadline: a caller waits",
    ("serve", "--file-pixels"): "2160p: a caller waits",
    ("train", "--system"): "ours",
    ("live", "--window"): "3: a stream has no utterances yet",
    ("synth", "--samples"): "a data set has a size",
    ("data check", "--samples"): "a look at some clips, not at all of them",
    ("calibrate", "--samples"): "ranges need about so many",
    ("build-engine", "--samples"): "a comparison needs about so many",
    ("train", "--compat"): "a training has no checkpoint to ask",
    ("prepare", "--compat"): "a release has no checkpoint to ask",
}


def commands(group: click.Command = mmx, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))
    else:
        yield " ".join(path), group


ALL = dict(commands())


def each_option() -> Iterator[tuple[str, click.Option]]:
    for name, command in ALL.items():
        yield from ((name, each) for each in command.params if isinstance(each, click.Option))


def long(option: click.Option) -> str:
    return max(option.opts, key=len)


def form(kind: click.ParamType) -> object:
    described = kind.to_info_dict()
    return type(kind).__name__, described.get("choices"), described.get("min"), getattr(kind, "known", None)


def test_a_shared_option_has_one_form_and_one_default() -> None:
    seen = set()
    for name, option in each_option():
        if (shared := options.SHARED.get(long(option))) is None:
            continue
        seen.add(long(option))
        plain = click.Option([long(option)], **shared)
        if (name, long(option)) not in OTHER_FORM:
            assert form(option.type) == form(plain.type), (name, long(option))
            assert option.is_flag == plain.is_flag, (name, long(option))
        if (name, long(option)) not in OTHER_DEFAULT:
            assert option.default == plain.default, (name, long(option))
    assert seen == set(options.SHARED), set(options.SHARED) - seen
    known = {(name, long(option)) for name, option in each_option()}
    assert set(OTHER_FORM) | set(OTHER_DEFAULT) <= known


def test_an_option_with_one_name_and_another_form_is_a_shared_one() -> None:
    forms: dict[str, set[object]] = {}
    for _, option in each_option():
        if long(option) not in options.SHARED:
            forms.setdefault(long(option), set()).add((form(option.type)[0], option.is_flag))  # type: ignore[index]
    own = {"--out", "--split", "--labels", "--bundle", "--clips"}  # a file here, a folder there
    assert {name for name, found in forms.items() if len(found) > 1} <= own


def test_backends_are_those_of_the_runtime() -> None:
    assert set(options.BACKENDS) == set(NAMES)


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_a_help_text_and_a_variable(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(ALL[name], Command)
    assert main([*name.split(), "--help"]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out).replace("- ", "-")
    for option in ALL[name].params:
        if isinstance(option, click.Option) and long(option) != "--help":
            assert option.help, (name, long(option))
            own = option.envvar if isinstance(option.envvar, str) else option.envvar[0]  # type: ignore[index]
            path = () if long(option) in ("--quiet", "--verbose", "--log-level") else name.split()
            assert own == "_".join(["MMX", *path, long(option)[2:]]).upper().replace("-", "_")
            assert own in text and long(option) in text, (name, long(option))


def test_variables_are_no_other_variable_of_mmx() -> None:
    taken = {"MMX_CACHE", "MMX_CUDA", "MMX_API_KEY", "MMX_CONFIG"}
    own = [v for _, option in each_option() for v in ([option.envvar] if isinstance(option.envvar, str) else [])]
    assert not taken & set(own)


MISSING = {
    "push": ["no.mmx", "owner/name"], "sign": ["no.mmx", "--key", "no.pem"], "verify": ["no.mmx", "--key", "no.pem"],
    "export": ["no.pt"], "inspect": ["no.mmx"], "build-engine": ["no.mmx", "--fp16"],
    "optimize": ["no.mmx"], "calibrate": ["no.mmx", "--noise"], "predict": ["no.mmx", "v.mp4"],
    "live": ["no.mmx", "0"], "batch": ["v.mp4", "--out", "r", "--bundle", "no.mmx"],
    "serve": ["no.mmx"], "package": ["no.mmx", "--triton", "t"], "transcribe": ["no.mp4"],
    "bench": ["iemocap", "--data", "no"], "eval": ["no.pt", "--data", "no"], "profile": ["no.mmx"],
    "prepare": ["iemocap", "no", "--out", "x"], "data check": ["no.csv"], "train": ["iemocap", "--data", "no"],
}  # fmt: skip
NO_PATH = {"asr list", "asr pull", "pull", "synth", "systems", "doctor"}


@pytest.mark.parametrize("name", sorted(set(ALL) - NO_PATH))
def test_a_missing_path_is_two(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*name.split(), *MISSING[name]]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.match(r"mmx: error: no(\.\w+)? does not exist\nhint: ", err), err
    assert not list(tmp_path.iterdir())


def test_a_missing_video_is_two_and_the_next_one_follows(tiny_bundle, sound, tmp_path, capsys) -> None:
    command = ["predict", str(tiny_bundle), str(tmp_path / "no.mp4"), str(sound), "--json", "--backend", "onnxruntime"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["file"] == str(sound) and "no.mp4" in err


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A second of a tone."""
    import wave

    import numpy as np

    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((8000 * np.sin(np.arange(16000) / 10)).astype("<i2").tobytes())
    return path


def test_a_folder_is_for_batch(tiny_bundle, tmp_path, capsys) -> None:
    assert main(["predict", str(tiny_bundle), str(tmp_path)]) == 2
    assert f"mmx batch {tiny_bundle} {tmp_path} --out results" in capsys.readouterr().err


def probe_command(monkeypatch: pytest.MonkeyPatch, name: str) -> dict[str, object]:
    """Replace what a command does by keeping what it was given."""
    given: dict[str, object] = {}
    command = ALL[name]
    monkeypatch.setattr(command, "callback", lambda **values: given.update(values))
    context = click.Context(mmx)
    monkeypatch.setattr(type(mmx), "get_command", lambda self, ctx, cmd: command if cmd == name else None)
    assert mmx.get_command(context, name) is command
    return given


OLD = [
    ("predict", ["B", "v.mp4", "--jobs", "3"], "workers", 3),
    ("batch", ["B", "--out", "r", "--jobs=3"], "workers", 3),
    ("serve", ["B", "--lanes", "2"], "streams", 2),
    ("serve", ["B", "--max-batch", "2"], "batch_size", 2),
    ("serve", ["B", "--worker-memory", "600"], "file_memory", 600),
    ("build-engine", ["B", "--batch", "2"], "batch_size", 2),
    ("package", ["B", "--instances", "2"], "workers", 2),
    ("bench", ["iemocap", "--json", "x.json"], "files", (Path("x.json"),)),
    ("bench", ["iemocap", "--html", "x.html", "--markdown", "x.md"], "files", (Path("x.html"), Path("x.md"))),
    ("bench", ["iemocap", "--scenario", "offline"], "scenarios", ("offline",)),
    ("profile", ["B", "--json", "x.json"], "out", Path("x.json")),
    ("calibrate", ["B", "--report", "x.json"], "out", Path("x.json")),
    ("eval", ["B", "--data", "B", "--backend", "openvino"], "backends", ("openvino",)),
    ("export", ["ckpt.pt", "--config", "ckpt.pt"], "config_file", Path("ckpt.pt")),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what commands ask for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "B").mkdir()
    (tmp_path / "ckpt.pt").touch()
    return tmp_path


@pytest.mark.parametrize(("name", "arguments", "parameter", "value"), OLD)
def test_an_old_name_works_with_a_note(name, arguments, parameter, value, folder, monkeypatch, capsys) -> None:
    given = probe_command(monkeypatch, name)
    assert main([name, *arguments]) == 0
    assert given[parameter] == value
    assert re.search(r"^mmx: note: --[a-z-]+( FILE)? is called --[a-z-]+ now$", capsys.readouterr().err, re.M)


def test_what_looks_like_an_old_name_is_left_alone(folder, monkeypatch, capsys) -> None:
    given = probe_command(monkeypatch, "bench")
    assert main(["bench", "--json", "iemocap"]) == 0
    assert given["as_json"] is True and given["files"] == ()
    monkeypatch.undo()
    os.chdir(folder)
    given = probe_command(monkeypatch, "predict")
    assert main(["predict", "B", "--text", "--jobs", "--", "v.mp4", "--jobs"]) == 0
    assert given["text"] == ("--jobs",) and given["files"] == ("v.mp4", "--jobs") and given["workers"] is None
    assert capsys.readouterr().err == ""


def test_precision_and_its_short_form(folder, capsys) -> None:
    """--fp16 is --precision fp16: both together are one, and two different ones an error."""
    assert main(["build-engine", "B", "--precision", "fp16", "--int8"]) == 2
    assert "fp16 and int8" in capsys.readouterr().err
    assert main(["build-engine", "B", "--precision", "fp16", "--fp16"]) != 0  # B is no bundle
    assert "precision" not in capsys.readouterr().err.splitlines()[0]


def test_the_environment_and_the_config_file(folder, monkeypatch, capsys) -> None:
    """The command line wins over the environment, and that over mmx.toml."""
    given = probe_command(monkeypatch, "predict")
    (folder / "mmx.toml").write_text("[predict]\nthreads = 3\nbatch-size = 5\ntext = ['a', 'b']\njson = true\n")
    monkeypatch.setenv("MMX_PREDICT_THREADS", "2")
    assert main(["predict", "B", "v.mp4"]) == 0
    assert (given["threads"], given["batch_size"], given["text"], given["as_json"]) == (2, 5, ("a", "b"), True)
    assert main(["predict", "B", "v.mp4", "--threads", "1"]) == 0
    assert given["threads"] == 1
    (folder / "other.toml").write_text("[predict]\nbatch_size = 7\n")
    for before in (["--config", "other.toml"], []):
        monkeypatch.setenv("MMX_CONFIG", "other.toml")
        assert main([*before, "predict", "B", "v.mp4"]) == 0 and given["batch_size"] == 7


@pytest.mark.parametrize(
    ("text", "said", "code"),
    [
        ("[predict]\nbakend = 'openvino'\n", "[predict] has no option 'bakend'; did you mean 'backend'?", 2),
        ("[predct]\nbackend = 'openvino'\n", "[predct] is no command of mmx; did you mean 'predict'?", 2),
        ("[predict]\nthreads = 'many'\n", "[predict] threads = 'many'", 2),
        ("[predict]\nthreads = true\n", "[predict] threads = True", 2),
        ("[predict]\njson = 'yes'\n", "[predict] json = 'yes': true or false is needed", 2),
        ("[predict]\nbackend = ['openvino']\n", "[predict] backend = ['openvino']: it takes one value", 2),
        ("[predict]\nbackend = 'cupy'\n", "[predict] backend = 'cupy'", 2),
        ("loud = true\n", "has no option 'loud'", 2),
        ("[predict\n", "is not TOML", 5),
        ("a" * (1 << 20) + "=1", "larger than 1 MB", 5),
    ],
)
def test_a_wrong_config_file_is_one_clear_line(folder, capsys, text: str, said: str, code: int) -> None:
    (folder / "mmx.toml").write_text(text)
    assert main(["predict", "B", "v.mp4"]) == code
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("mmx: error: mmx.toml") and said in first


def test_a_config_file_that_is_named_must_exist(folder, capsys) -> None:
    assert main(["--config", "no.toml", "systems"]) == 2
    assert "no.toml does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "meant"), [("predcit", "predict"), ("build_engine", "build-engine")])
def test_a_typo_is_answered_with_the_command(capsys, typed: str, meant: str) -> None:
    assert main([typed]) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_commands_are_grouped(capsys) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"\n{title}:") for title in ("Make", "Use", "Measure", "Data and training", "This machine")]
    assert places == sorted(places)
    assert [text.index(f"\n  {name} ") for name in ENTRIES] == sorted(text.index(f"\n  {name} ") for name in ENTRIES)


def test_the_shell_completes() -> None:
    environment = {
        **os.environ,
        "_MMX_COMPLETE": "bash_complete",
        "COMP_WORDS": "mmx predict --back",
        "COMP_CWORD": "2",
    }
    code = "import sys; from mmx.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "plain,--backend\n", done.stderr


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "mmx.cli", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("mmx ")


def test_json_has_no_nan() -> None:
    nan, infinity = float("nan"), float("inf")
    assert json.loads(to_json({"a": nan, "b": [1.5, infinity, {"c": (-infinity,)}]}), parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None, {"c": [None]}],
    }
