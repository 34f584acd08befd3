"""Reading a manifest.json: types, bounds, and whether its fields agree with each other and the graph contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mmx.runtime.errors import BadDataError
from mmx.runtime.from_json import from_plain, parse_object, read_limited
from mmx.runtime.manifest import SCHEMA_VERSION, FaceSpec, GraphSpec, Manifest, MelSpec

MANIFEST = "manifest.json"
VARIANTS = "variants"  # the folder of what is derived from the graph; no listed file may lie there
FACE_NETS = ("pnet", "rnet", "onet")
TEXT_SIZES = ("vocabulary", "positions")  # of ``config.text``, which bound what a text may hold
_FACE, _MEL = FaceSpec(), MelSpec()
_INPUTS: dict[str, tuple[str, int, tuple[int, ...]]] = {  # of systems on media: dtype, axes in all, the fixed last ones
    "input_ids": ("int64", 2, ()),
    "attention_mask": ("int64", 2, ()),
    "faces": ("float32", 4, (3, _FACE.size, _FACE.size)),
    "face_index": ("int64", 2, ()),
    "pieces": ("float32", 3, (_MEL.n_mels, _MEL.columns)),
    "piece_index": ("int64", 2, ()),
}
_LIMIT = 16 * 2**20  # bytes
_AGAIN = "run mmx export again"


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.json.

    Raises:
        BadDataError: it is missing, not JSON, of an unknown schema_version; or a field is missing, unknown, of the
            wrong type, out of bounds, or contradicts another.
    """
    return parse_manifest(manifest_bytes(path), path)


def manifest_bytes(path: Path) -> bytes:
    """The bytes of a manifest.json. Raises BadDataError where it is missing, no plain file, or too large."""
    try:
        return read_limited(path, _LIMIT, _AGAIN)
    except FileNotFoundError as e:
        raise BadDataError(f"{path} is missing", f"this folder is not a finished mmx bundle; {_AGAIN}") from e


def parse_manifest(content: bytes, where: Path) -> Manifest:
    """The manifest in some bytes; ``where`` names them in errors. Raises BadDataError as ``read_manifest``."""
    raw = parse_object(content, str(where), _AGAIN)
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BadDataError(
            f"{where} has schema_version {version!r:.80}; this mmx reads {SCHEMA_VERSION}",
            "export the checkpoint again with this version, or install the mmx that made the bundle",
        )
    manifest: Manifest = from_plain(Manifest, raw, str(where))
    check_manifest(manifest, where)
    return manifest


def check_manifest(manifest: Manifest, where: Path) -> None:
    """What the fields' types cannot say: that they agree with each other.

    Raises:
        BadDataError: naming the field.
    """

    def need(fine: bool, problem: str) -> None:
        if not fine:
            raise BadDataError(f"{where}: {problem}", _AGAIN)

    for name, digest in manifest.files.items():
        need(is_inside(name), f"files: {name!r} does not stay inside the bundle")
        need(name != MANIFEST, f"files: {MANIFEST} cannot list itself")
        need(not name.startswith(f"{VARIANTS}/"), f"files: {name!r} lies among the variants, which list themselves")
        need(is_digest(digest), f"files: {name!r} has no SHA-256")
    need(set(manifest.graphs) == {"fp32"}, "graphs: there must be one, fp32")
    graph = manifest.graphs["fp32"]
    need(graph.precision == "fp32", f"graphs: the fp32 graph calls itself {graph.precision!r}")
    need(graph.file in manifest.files, f"graphs: the fp32 graph {graph.file!r} is not among the files")
    need(graph.file.endswith(".onnx"), f"graphs: {graph.file!r} is not an .onnx file")
    need(0 < len(manifest.labels) == len(set(manifest.labels)), "labels: none, or one twice")
    need(len(manifest.thresholds) == len(manifest.labels), "thresholds: not one for each label")
    need(0 < len(manifest.modalities) == len(set(manifest.modalities)), "modalities: none, or one twice")
    fused = set(manifest.fusion_weights)  # empty for a system that does not fuse logits
    need(not fused or fused == set(manifest.modalities), "fusion_weights: not one for each modality")
    problem = next(_contract_problems(graph, len(manifest.labels), sorted(fused)), "")
    need(not problem, f"graphs: {problem}")
    faces = [name for name in manifest.files if name.startswith("faces/")]
    expected = [f"faces/{net}.onnx" for net in FACE_NETS]
    need(not faces or sorted(faces) == sorted(expected), f"files: faces/ does not hold {', '.join(expected)}")
    spec = manifest.preprocessing
    need(spec.faces.margin < spec.faces.size, "preprocessing: faces: margin is not below size")
    need(spec.mel.hop <= spec.mel.n_fft, "preprocessing: mel: hop is above n_fft")
    text = manifest.config.get("text")
    sizes = [(name, text[name]) for name in TEXT_SIZES if name in text] if isinstance(text, dict) else []
    for name, value in sizes:
        need(_is_size(value), f"config: text: {name} is not a size")


def is_inside(name: str) -> bool:
    """Whether ``name`` is a plain relative path: nothing that climbs, starts at a root or means two things."""
    plain = PurePosixPath(name)
    return (
        bool(plain.parts)
        and not plain.is_absolute()
        and ".." not in plain.parts
        and str(plain) == name
        and not set(name) & set("\\:")
        and name.isprintable()
    )


def is_digest(text: str) -> bool:
    """Whether a text is a SHA-256 in lower-case hexadecimal."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2**31 - 1


def _contract_problems(graph: GraphSpec, labels: int, fused: list[str]) -> Iterator[str]:
    """Where the inputs and outputs that the manifest lists are not those that the runtime fills and reads."""
    for kind, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        names = [tensor.name for tensor in tensors]
        if len(set(names)) < len(names) or not names:
            yield f"{kind}s: none, or one twice"
    for tensor in graph.inputs:
        dtype, rank, fixed = _INPUTS.get(tensor.name, (tensor.dtype, len(tensor.axes), ()))
        found = (tensor.dtype, len(tensor.axes), tensor.axes[len(tensor.axes) - len(fixed) :])
        if found != (dtype, rank, fixed) or dtype not in ("int64", "float32"):
            yield f"the input {tensor.name} is {tensor.dtype} {list(tensor.axes)}, which nothing fills"
    for tensor in graph.outputs:
        if (tensor.dtype, tensor.axes) != ("float32", ("batch", labels)):
            yield f"the output {tensor.name} is not float32 [batch, {labels}], a column for each label"
    present = {tensor.name for tensor in graph.outputs}
    yield from (f"there is no output {n}" for n in ("logits", *(f"logits_{m}" for m in fused)) if n not in present)
