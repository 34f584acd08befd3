"""``mmx package --docker``: a folder from which ``docker build`` makes an image of ``mmx serve`` with one bundle."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from mmx.runtime.bundle import Bundle
from mmx.runtime.manifest_reader import MANIFEST
from mmx.runtime.variants import RECORD
from mmx.serving.packaging.folder import new_folder
from mmx.serving.packaging.wheel import pinned, write_wheel

PORT = 8000
USER = 10001  # a number, so that Kubernetes' runAsNonRoot can check it


def write_docker(bundle: Bundle, out: Path) -> list[str]:
    """Write Dockerfile, .dockerignore, requirements.txt, mmx as a wheel and the bundle (without engines) into ``out``.

    Returns:
        The commands that build and run the image.

    Raises:
        UsageError: ``out`` is not empty. EnvironmentMissing: what ``mmx serve`` needs is not installed here.
    """
    with new_folder(out) as folder:
        wheel = write_wheel(folder)
        (folder / "requirements.txt").write_text("\n".join(pinned("serve", *tokenizer_extra(bundle))) + "\n")
        copy_bundle(bundle, folder / "bundle.mmx")
        (folder / "Dockerfile").write_text(_dockerfile(wheel.name))
        (folder / ".dockerignore").write_text(f"*\n!requirements.txt\n!{wheel.name}\n!bundle.mmx\n")
    return [
        f"docker build -t mmx-serve {out}",
        "export MMX_API_KEY=$(head -c 24 /dev/urandom | base64)",
        f"docker run --rm -p {PORT}:{PORT} -e MMX_API_KEY --read-only --tmpfs /tmp --cap-drop ALL "
        "--security-opt no-new-privileges mmx-serve",
    ]


def tokenizer_extra(bundle: Bundle) -> tuple[str, ...]:
    """The extra that reads the bundle's tokenizer, where the core does not."""
    folder = bundle.tokenizer_dir
    return ("tokenizers",) if folder is not None and not (folder / "spiece.model").exists() else ()


def copy_bundle(
    bundle: Bundle,
    to: Path,
    only: tuple[str, ...] = ("",),
    kinds: tuple[str, ...] = ("graph", "probabilities"),
) -> None:
    """Copy a bundle: those of its files whose path begins with one of ``only``, and its variants of some ``kinds``."""
    names = [MANIFEST, *(name for name in bundle.manifest.files if name.startswith(only))]
    names += [
        (variant.path / file).relative_to(bundle.path).as_posix()
        for variant in bundle.variants
        if variant.record.kind in kinds
        for file in (RECORD, *variant.record.files)
    ]
    with bundle.unreplaced():
        for name in names:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, to / name)


def _dockerfile(wheel: str) -> str:
    return f"""\
# mmx serve with one bundle; written by mmx package --docker, with the versions of Python and packages it ran with.
FROM python:{platform.python_version()}-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /srv
COPY requirements.txt {wheel} ./
RUN pip install --no-cache-dir --no-deps -r requirements.txt ./{wheel} \\
    && python -m compileall -q /usr/local/lib/python{".".join(platform.python_version_tuple()[:2])}/site-packages/mmx \\
    && useradd --uid {USER} --no-create-home --shell /usr/sbin/nologin mmx
COPY bundle.mmx bundle.mmx

USER {USER}
EXPOSE {PORT}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \\
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:{PORT}/healthz', timeout=2)"]
ENTRYPOINT ["mmx", "serve", "/srv/bundle.mmx", "--host", "0.0.0.0", "--port", "{PORT}"]
"""
