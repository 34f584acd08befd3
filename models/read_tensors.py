"""Read a file of tensors that may be broken or hostile: nothing in it runs, nothing it declares is believed.

A file written by ``torch.save`` holds a bare state dict, or a dictionary with one inside. Reading it runs no code
(``weights_only``). A safetensors file holds tensors and a few strings.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from mmx.models.network_tensors import CONVERT
from mmx.models.pickle_protocol import newer_protocols_read
from mmx.runtime.errors import BadDataError, MissingPath, missing_extra

_CHUNK = 2**20
_LEGACY_NUMBER = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
_LEGACY_MAGIC = b"\x80\x02" + _LEGACY_NUMBER
METADATA = ("system", "dataset", "labels", "thresholds", "config", "compat")
"""The keys of a checkpoint that says what it is (docs/checkpoints.md)."""


def read_checkpoint_file(path: Path) -> Mapping[Any, Any]:
    """What the file holds: a state dict, or a dictionary with one among other things. The tensors are not checked yet.

    Raises:
        BadDataError: the file is missing, no checkpoint, damaged, or holds pickled objects.
    """
    kind = _check_kind(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings(), newer_protocols_read() if kind == "zip" else nullcontext():
            warnings.simplefilter("ignore")  # torch remarks on its own internals while it reads a damaged file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # whatever a hostile file makes the reader raise is a bad file
        raise _unreadable(path, e) from e
    if isinstance(content, torch.nn.Module) or not isinstance(content, Mapping):
        raise BadDataError(f"{path} holds a {type(content).__name__}, not a state dict", CONVERT)
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors as a state dict; what the file's metadata says under ``METADATA`` beside it, read as JSON."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as e:
        raise missing_extra("safetensors", "export") from e
    try:
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except (SafetensorError, OSError, ValueError, RuntimeError) as e:
        raise BadDataError(f"{path} is truncated or damaged ({e!s:.120})", "download or save it again") from e
    return {"state_dict": tensors, **{key: _plain(metadata[key]) for key in METADATA if key in metadata}}


def _plain(text: str) -> Any:
    """JSON, or the text itself: a name need not stand in quotes."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _check_kind(path: Path) -> str:
    """zip, legacy (both made by ``torch.save``) or safetensors; rejects anything else, saying what it is."""
    if not path.exists():
        raise MissingPath(f"{path} does not exist", "check the path")
    if not path.is_file():
        raise BadDataError(f"{path} is not a file", "name the checkpoint inside it")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as e:
        raise BadDataError(f"{path} cannot be read: {e.strerror}") from e
    if not head:
        raise BadDataError(f"{path} is empty (0 bytes)", "download or save it again")
    if head.startswith(b"PK"):
        _check_zip(path)
        return "zip"
    if head.startswith(_LEGACY_MAGIC):
        return "legacy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if _LEGACY_NUMBER in head[:32]:
        problem = (
            f"{path} is a checkpoint in torch.save's old format with pickle protocol {head[1]}, which mmx cannot read"
        )
        raise BadDataError(problem, CONVERT)
    raise BadDataError(f"{path} is not a PyTorch checkpoint{_guess(path, head)}", "give a file made by torch.save")


def _guess(path: Path, head: bytes) -> str:
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and b"pytorch" in head[:64]):
        return " but an ONNX graph"
    if head[:1] == b"\x80":
        return " but a pickle, which mmx never runs"
    if head[8:9] == b"{":
        return " but looks like safetensors, cut short"
    text = head.decode("utf-8", "replace")[:-4]  # the last character may be cut
    readable = "\ufffd" not in text and all(c.isprintable() or c.isspace() for c in text)
    return " but a text file" if text and readable else ""


def _check_zip(path: Path) -> None:
    """A ``torch.save`` archive holds plain records, each with a checksum that torch itself never compares."""
    damaged = BadDataError(f"{path} is truncated or damaged", "download or save it again")
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            _check_records(path, records)
            for record in records:
                if record.CRC:  # torch.save can leave it out
                    with archive.open(record) as content:
                        while content.read(_CHUNK):
                            pass
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, RuntimeError) as e:
        raise damaged from e


def _check_records(path: Path, records: list[zipfile.ZipInfo]) -> None:
    names = {record.filename.rsplit("/", 1)[-1] for record in records}
    if "constants.pkl" in names:
        raise BadDataError(f"{path} is a TorchScript program, not a state dict", CONVERT)
    if "data.pkl" not in names:
        raise BadDataError(f"{path} is a zip archive but not a PyTorch checkpoint", "give a file made by torch.save")
    declared = sum(record.file_size for record in records)
    if any(record.compress_type != zipfile.ZIP_STORED for record in records) or declared > path.stat().st_size:
        raise BadDataError(f"{path} has compressed or overlapping records, which torch.save never writes")


def _unreadable(path: Path, error: Exception) -> BadDataError:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return BadDataError(f"{path} holds pickled Python objects ({found[1]:.80}), which mmx never runs", CONVERT)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return BadDataError(f"{path} is truncated or damaged ({first:.120})", "download or save it again")
