"""This very mmx as a wheel, and the versions it runs with: what an image needs to be the same program."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distributions
from importlib.util import find_spec
from pathlib import Path

from mmx.runtime.errors import EnvironmentMissing, missing_extra
from mmx.runtime.extras import install_command

# All that is installed: a command whose extra the image lacks must say so itself.
PACKAGES = (
    "benchmarks",
    "calibration",
    "cli",
    "datasets",
    "evaluation",
    "export",
    "models",
    "runtime",
    "serving",
    "training",
    "view",
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # so that the same code makes the same wheel


def write_wheel(folder: Path) -> Path:
    """Write ``mmx-<version>-py3-none-any.whl`` with the packages that run a bundle, whichever way mmx is installed."""
    mmx = _installed("mmx")
    path = folder / f"mmx-{mmx.version}-py3-none-any.whl"
    info = f"mmx-{mmx.version}.dist-info"
    files = {f"mmx/{package}/{name}": content for package in PACKAGES for name, content in _files(package).items()}
    files |= {f"mmx/{name}": content for name, content in _files("").items() if "/" not in name}
    files |= {
        f"{info}/METADATA": (mmx.read_text("METADATA") or mmx.read_text("PKG-INFO") or "").encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: mmx package\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": (mmx.read_text("entry_points.txt") or "").encode(),
    }
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, content)
    return path


def pinned(*extras: str) -> list[str]:
    """``name==version`` of everything that mmx with these extras needs, as installed here, sorted.

    Raises:
        EnvironmentMissing: one of them is not installed, so that nothing here has run with it.
    """
    from packaging.requirements import Requirement  # comes with onnxruntime

    found: dict[str, str] = {}
    waiting = [("mmx", frozenset(extras))]
    seen = set(waiting)
    while waiting:
        name, wanted = waiting.pop()
        try:
            here = _installed(name)
        except PackageNotFoundError as e:
            raise missing_extra(name, ",".join(extras) or "all") from e
        offered = set(here.metadata.get_all("Provides-Extra") or ())
        if name == "mmx" and not wanted <= offered:
            raise EnvironmentMissing(
                f"this mmx has no extra {sorted(wanted - offered)[0]!r}",
                f"install it again: {install_command('serve')}",
            )
        if name != "mmx":
            found[here.metadata["Name"].lower().replace("_", "-")] = here.version
        for line in here.requires or ():
            requirement = Requirement(line)
            applies = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", *wanted)
            )
            step = (requirement.name, frozenset(requirement.extras))
            if applies and step not in seen:
                seen.add(step)
                waiting.append(step)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _files(package: str) -> dict[str, bytes]:
    """Every file of a package ("" is mmx itself) but what Python compiled, by its path in the package."""
    spec = find_spec(f"mmx.{package}" if package else "mmx")
    assert spec is not None and spec.submodule_search_locations is not None
    root = Path(next(iter(spec.submodule_search_locations)))
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def _installed(name: str) -> Distribution:
    """What pip installed under this name, rather than the build's leavings (egg-info) in the current folder."""
    found = list(distributions(name=name))
    if not found:
        raise PackageNotFoundError(name)
    return next((one for one in found if one.read_text("METADATA")), found[0])


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
