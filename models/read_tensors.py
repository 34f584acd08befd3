"""Read a file of tensors that may be broken or hostile: nothing in it runs, nothing it declares is believed.

A file written by ``torch.save`` holds a bare state dict, or a dictionary with one inside. Reading it runs no code
(``weights_only``), and each tensor is checked before its values are touched.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmx.runtime.errors import BadDataError

STATE_KEYS = ("state_dict", "model_state_dict", "model")
CONVERT = "in the code that made it: torch.save(model.state_dict(), 'weights.pt')"
# What DataParallel (and AveragedModel), torch.compile, FSDP and Lightning put before every name.
_PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.")
_AVERAGED = "n_averaged"  # AveragedModel's own counter, beside them
_CHUNK = 2**20
_LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")


def read_checkpoint_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """The tensors by name, what else the file says (empty for a bare state dict), and notes on what was changed.

    Raises:
        BadDataError: the file is missing, no checkpoint, damaged, holds pickled objects, or tensors that are no plain
            CPU tensors.
    """
    _check_kind(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on its own internals while it reads a damaged file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # whatever a hostile file makes the reader raise is a bad file
        raise _unreadable(path, e) from e
    if isinstance(content, torch.nn.Module) or not isinstance(content, Mapping):
        raise BadDataError(f"{path} holds a {type(content).__name__}, not a state dict", CONVERT)
    state, extra = _split(path, content)
    notes: list[str] = []
    tensors = _plain_names(path, state, notes)
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor)
    return tensors, extra, notes


def _check_kind(path: Path) -> None:
    """Refuse what is no ``torch.save`` file, saying what it is where that can be told."""
    if not path.exists():
        raise BadDataError(f"{path} does not exist", "check the path")
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
    elif not head.startswith(_LEGACY_MAGIC):
        raise BadDataError(f"{path} is no PyTorch checkpoint{_guess(path, head)}", "give a file made by torch.save")


def _guess(path: Path, head: bytes) -> str:
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and b"pytorch" in head[:64]):
        return " but an ONNX graph"
    if head[:1] == b"\x80":
        return " but a pickle, which mmx never runs"
    if head[8:9] == b"{":
        return " but looks like safetensors"
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
                if record.CRC:  # torch.save can be told to leave it out
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
        raise BadDataError(f"{path} is a zip archive but no PyTorch checkpoint", "give a file made by torch.save")
    declared = sum(record.file_size for record in records)
    if any(record.compress_type != zipfile.ZIP_STORED for record in records) or declared > path.stat().st_size:
        raise BadDataError(f"{path} has compressed or overlapping records, which torch.save never writes")


def _unreadable(path: Path, error: Exception) -> BadDataError:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return BadDataError(f"{path} holds pickled Python objects ({found[1]:.80}), which mmx never runs", CONVERT)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return BadDataError(f"{path} is truncated or damaged ({first:.120})", "download or save it again")


def _split(path: Path, content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], dict[str, Any]]:
    """The state dict, and the plain data beside it."""
    key = next((k for k in STATE_KEYS if isinstance(content.get(k), Mapping)), None)
    if key is None:
        return content, {}
    return content[key], {str(k): v for k, v in content.items() if k != key}


def _plain_names(path: Path, state: Mapping[Any, Any], notes: list[str]) -> dict[str, Tensor]:
    """Tensors by name, without what a wrapper put before every name."""
    if not state:
        raise BadDataError(f"{path} holds no tensors", CONVERT)
    for name, value in state.items():
        if not isinstance(name, str):
            raise BadDataError(f"{path} is no state dict: a key is a {type(name).__name__}, not a name", CONVERT)
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise BadDataError(f"{path} is no state dict: {ascii(name)[:80]} is a {kind}, not a tensor", CONVERT)
    tensors = dict(state)
    if any(name.startswith("module.") for name in tensors) and tensors.pop(_AVERAGED, None) is not None:
        notes.append(f"dropped {_AVERAGED}: how many models were averaged")
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        notes.append(f"took the prefix {prefix!r} off every name")
    return tensors


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Plain, dense, on the CPU, and with the bytes that its shape needs (an expanded one can claim terabytes)."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
    if not plain or tensor.device.type != "cpu":
        raise BadDataError(f"{path}: {ascii(name)[:80]} is no plain dense tensor", CONVERT)
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise BadDataError(f"{path}: {ascii(name)[:80]} declares {tuple(tensor.shape)}, more than the file holds of it")
