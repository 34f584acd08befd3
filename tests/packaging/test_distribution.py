"""The wheel holds every file of the packages, the sdist every file of the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from mmx.serving.packaging.wheel import write_wheel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The paths of the repository's files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone: there is no list of files to compare with")
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def in_packages(tracked: set[str]) -> set[str]:
    """Where the files of the code folders belong in an installation."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    places = {folder: package.replace(".", "/") for package, folder in settings["package-dir"].items()}
    return {
        f"{places[name.partition('/')[0]]}/{name.partition('/')[2]}"
        for name in tracked
        if name.partition("/")[0] in places
    }


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_of_an_image_is_complete(tracked: set[str], tmp_path: Path) -> None:
    assert contents(write_wheel(tmp_path)) >= in_packages(tracked)


@pytest.mark.slow
def test_what_is_published_is_complete_and_predicts(tracked: set[str], tmp_path: Path) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    assert uv is not None, "pip install uv"
    source = tmp_path / "source"
    for name in tracked:  # a copy: a build leaves its files where it works
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    subprocess.run([uv, "build", "-q", "--out-dir", str(tmp_path / "dist"), str(source)], check=True)
    (wheel,), (sdist,) = ((tmp_path / "dist").glob(pattern) for pattern in ("*.whl", "*.tar.gz"))
    assert contents(wheel) == in_packages(tracked)
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert tracked - held == set()
    extra = {name for name in held - tracked if "egg-info/" not in name}
    assert extra <= {"PKG-INFO", "setup.cfg"}

    target = tmp_path / "installed"
    subprocess.run([uv, "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True)
    code = "import sys; from mmx.cli import probes; print(probes.__file__); print(probes.find('prediction'))"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(target)}, capture_output=True, text=True
    )
    assert found.stdout.startswith(str(target)) and found.stdout.count("status='ok'") == 2, found
