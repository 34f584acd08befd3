"""The command's frame: a quick listing, and errors as one line with the right exit code and no traceback."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from mmx.cli import main as frame
from mmx.runtime.errors import BadDataError, EnvironmentMissing, ParityError, UsageError
from mmx.runtime.extras import install_command

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mmx.cli.main", *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch):
    """Put a function in the place of `mmx doctor`."""

    def put(callback) -> None:
        command = click.Command("doctor", callback=callback)
        monkeypatch.setattr(frame.LazyGroup, "get_command", lambda self, ctx, name: command)

    return put


def test_help_lists_every_command_that_exists_and_imports_none() -> None:
    code = "import sys; from mmx.cli.main import main; main(['--help']); print(sorted(m for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name, entry in frame.ENTRIES.items():
        exists = find_spec(f"mmx.cli.{name.replace('-', '_')}") is not None
        assert (f"  {name} " in done.stdout) == exists, name
        assert (entry.help.split()[0] in done.stdout) or not exists
    for heavy in ("numpy", "onnxruntime", "torch", "av", "mmx.cli.predict"):
        assert f"'{heavy}'" not in done.stdout


@pytest.mark.parametrize("name", [n for n in frame.ENTRIES if find_spec(f"mmx.cli.{n.replace('-', '_')}")])
def test_every_listed_command_has_help(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0 and f"Usage: mmx {name}" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError, 2), (ParityError, 3), (EnvironmentMissing, 4), (BadDataError, 5)]
)
def test_an_error_is_a_line_a_hint_and_its_code(replace, capsys, error: type, code: int) -> None:
    def fail() -> None:
        raise error("clip.mp4 is broken", "record it again")

    replace(fail)
    assert frame.main(["doctor"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", "mmx: error: clip.mp4 is broken\nhint: record it again\n")


def test_a_name_cannot_drive_the_terminal(replace, capsys) -> None:
    def fail() -> None:
        raise BadDataError("\x1b[2Jtensor\r is bad")

    replace(fail)
    assert frame.main(["doctor"]) == 5
    assert capsys.readouterr().err == "mmx: error: \\x1b[2Jtensor\\r is bad\n"


def test_a_bug_keeps_its_traceback(replace) -> None:
    replace(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        frame.main(["doctor"])


def test_a_commands_code_is_the_exit_code(replace) -> None:
    replace(lambda: 5)
    assert frame.main(["doctor"]) == 5
    replace(lambda: None)
    assert frame.main(["doctor"]) == 0


def test_control_c_is_quiet(replace, capsys) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    replace(interrupt)
    assert frame.main(["doctor"]) == 130
    assert capsys.readouterr().err.strip() == ""


def test_a_missing_extra_names_the_pip_command(replace, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_torch() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    replace(needs_torch)
    monkeypatch.setattr(frame, "find_spec", lambda name: None)
    assert frame.main(["doctor"]) == 4
    assert capsys.readouterr().err == f"mmx: error: torch is not installed\nhint: {install_command('export')}\n"


def test_every_package_that_the_code_imports_is_of_the_core_or_of_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    core = {re.split(r"[<>=]", line)[0] for line in project["project"]["dependencies"]}
    core |= {"packaging", "triton_python_backend_utils"}  # come with onnxruntime, and with Triton
    imported: set[str] = set()
    for folder in project["tool"]["setuptools"]["package-dir"].values():
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add((node.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) - {"mmx"} - core <= set(frame.EXTRA_OF)
    assert set(frame.EXTRA_OF.values()) <= set(project["project"]["optional-dependencies"])


def test_a_missing_module_that_no_extra_brings_is_a_bug(replace) -> None:
    def broken() -> None:
        import mmx.runtime.no_such_module  # noqa: F401

    replace(broken)
    with pytest.raises(ModuleNotFoundError):
        frame.main(["doctor"])


def test_a_mistyped_command_line() -> None:
    for arguments in (["no-such-command"], ["predict"], ["predict", "b.mmx", "x.mp4", "--window", "soon"], ["--frob"]):
        done = run(*arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("mmx: error: ") and "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 2 and done.stderr.splitlines()[1].startswith("hint: mmx ")


def test_version_and_bare_command() -> None:
    assert run("--version").stdout.startswith("mmx 0.")
    bare = run()
    assert bare.returncode == 0 and "Usage: mmx" in bare.stdout
