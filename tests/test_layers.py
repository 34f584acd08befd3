"""Imports point one way: cli, serving -> benchmarks, training, calibration, export -> models -> runtime."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmx.serving.packaging.wheel import PACKAGES

ROOT = Path(__file__).parents[1]
BELOW = {
    "runtime": set(),
    "view": {"runtime"},
    "evaluation": {"runtime"},
    "datasets": {"runtime", "evaluation"},
    "models": {"runtime"},
    "export": {"runtime", "models"},
    "training": {"runtime", "models", "export", "datasets", "evaluation"},
    "calibration": {"runtime", "models", "export", "datasets", "evaluation", "training"},
    "benchmarks": {"runtime", "view", "models", "export", "datasets", "evaluation"},
    "serving": {
        "runtime",
        "view",
        "models",
        "export",
        "datasets",
        "evaluation",
        "calibration",
        "training",
        "benchmarks",
    },
}
BELOW["cli"] = {*BELOW["serving"], "serving"}
TOP = "api"  # what `import mmx` and `python -m mmx` are: a few names of the runtime, and the command
NOT_INSTALLED = {"demo", "studies", "tests", "docs"}  # these may use every package; no package uses them
# `--on-mismatch rebuild` runs `mmx build-engine` as its user would, in a process of its own.
RUN_AS_COMMAND = {("runtime", "mmx.cli.main")}
FILES = {"mmx.toml"}  # a file of settings, no module
MODULE = re.compile(r"(?:^|-m )mmx((?:\.[A-Za-z_]\w*)+)$|\bpython -m mmx((?:\.[A-Za-z_]\w*)+)")


def named(source: str) -> Iterator[str]:
    """Every module that source names, anywhere in it: imported, or as a string for import_module or ``python -m``."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"line {node.lineno}: a relative import; name the module in full")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            names = (f"mmx{found[1] or found[2]}" for found in MODULE.finditer(node.value))
            yield from (name for name in names if name not in FILES)


def packages(source: str, folder: str = "") -> set[str]:
    """The mmx packages that source, which lies in ``folder``, names."""
    ours = (name for name in named(source) if name.startswith("mmx."))
    return {name.split(".")[1] for name in ours if (folder, name) not in RUN_AS_COMMAND}


def code_folders() -> set[str]:
    """Folders of the repository's root that hold Python."""
    folders = (path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {path.name for path in folders if any(path.rglob("*.py"))} - {"build", "dist"}


def test_every_folder_has_its_place() -> None:
    assert code_folders() <= {*BELOW, TOP} | NOT_INSTALLED, "say in BELOW what the new folder may import"


def test_every_package_is_installed_and_in_the_wheel_of_an_image() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    on_disk = {
        ".".join(("mmx", *init.parent.relative_to(ROOT).parts))
        for folder in BELOW
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(settings["packages"]) == {"mmx", *on_disk}
    assert settings["package-dir"] == {"mmx": TOP} | {f"mmx.{folder}": folder for folder in BELOW}
    assert set(PACKAGES) == set(BELOW)
    assert all((ROOT / folder / "py.typed").exists() for folder in BELOW)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    checked = re.search(r"^CODE\s*:=(.*)$", makefile, re.M)
    assert checked and set(checked[1].split()) == set(BELOW)
    assert re.search(rf"^TOP\s*:=\s*{TOP}$", makefile, re.M)
    ours = [packages(path.read_text("utf-8"), TOP) for path in (ROOT / TOP).glob("*.py")]
    assert set().union(*ours) == {"runtime", "cli"}


@pytest.mark.parametrize("folder", BELOW)
def test_imports_point_one_way(folder: str) -> None:
    allowed = BELOW[folder] | {folder}
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        ours = packages(path.read_text(encoding="utf-8"), folder)
        assert ours <= allowed, f"{path.relative_to(ROOT)} names mmx.{', mmx.'.join(sorted(ours - allowed))}"


def test_the_arrows_have_no_way_back() -> None:
    for folder, below in BELOW.items():
        assert all(folder not in BELOW[lower] and BELOW[lower] <= below for lower in below)


@pytest.mark.parametrize(
    "source",
    [
        "from mmx.benchmarks.run import run",
        "from mmx.benchmarks import run",
        "from mmx import benchmarks",
        "def f():\n    import mmx.benchmarks.run as b",
        "import_module('mmx.benchmarks.run')",
        "subprocess.run([sys.executable, '-m', 'mmx.benchmarks.run'])",
        "subprocess.run('python -m mmx.benchmarks.run out.json', shell=True)",
    ],
)
def test_every_way_to_name_a_module_is_seen(source: str) -> None:
    assert packages(source) == {"benchmarks"}


def test_no_package_imports_what_is_not_installed() -> None:
    modules = {path.stem for name in ("studies", "demo") for path in (ROOT / name).glob("*.py")}
    for folder in BELOW:
        for path in (ROOT / folder).rglob("*.py"):
            used = {name.split(".")[0] for name in named(path.read_text(encoding="utf-8"))} & (modules | NOT_INSTALLED)
            assert not used, f"{path.relative_to(ROOT)} imports {used}"


def test_the_runtime_imports_no_torch_and_no_onnx() -> None:
    heavy = {"torch", "onnx", "onnxscript", "onnx_ir", "librosa"}
    for path in (ROOT / "runtime").rglob("*.py"):
        used = {name.split(".")[0] for name in named(path.read_text(encoding="utf-8"))}
        assert not used & heavy, path.relative_to(ROOT)


@pytest.mark.parametrize("folder", BELOW)
def test_the_parts_of_a_package_have_no_cycle(folder: str) -> None:
    """Its sub-packages, and the modules beside them, can be put in an order in which each uses only earlier ones."""
    uses: dict[str, set[str]] = {}
    for path in (ROOT / folder).rglob("*.py"):
        part = path.relative_to(ROOT / folder).parts[0].removesuffix(".py")
        named_parts = {
            name.split(".")[2] for name in named(path.read_text("utf-8")) if name.startswith(f"mmx.{folder}.")
        }
        uses.setdefault(part, set()).update(named_parts - {part})
    uses = {part: used & set(uses) for part, used in uses.items() if part != "__init__"}
    while free := {part for part, used in uses.items() if not used}:
        uses = {part: used - free for part, used in uses.items() if part not in free}
    assert not uses, f"these use each other: {uses}"
