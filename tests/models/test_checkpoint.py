"""Good files load and say what they are; every bad file is one clear line and never a traceback."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.models.checkpoint import load_checkpoint, save_checkpoint, seeded_module
from mmx.models.config import to_dict
from mmx.models.labels import IEMOCAP, MOSEI
from mmx.models.registry import SYSTEMS, get_system
from mmx.runtime.errors import BadDataError, UsageError

PRESETS = [(n, p) for n, s in SYSTEMS.items() for p in s.presets if p.startswith("tiny")]


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    return seeded_module("ours", get_system("ours").presets["tiny"])


@pytest.fixture
def state(tiny) -> dict[str, torch.Tensor]:
    return dict(tiny.state_dict())


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "ckpt.pt"


def rejected(path: Path, says: str, **options) -> BadDataError:
    """The file is rejected with one short line that names it and matches ``says``."""
    with pytest.raises(BadDataError) as caught:
        load_checkpoint(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 1500
    assert re.search(says, message), message
    return caught.value


# Good files


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_bare_state_dict_tells_system_and_form(name, preset, path):
    config = get_system(name).presets[preset]
    module = seeded_module(name, config)
    torch.save(module.state_dict(), path)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.system, checkpoint.form, checkpoint.config) == (name, config.form, to_dict(config))
    assert checkpoint.dataset == "unknown" and checkpoint.labels[0] == "label_1"
    for key, tensor in checkpoint.module.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[key])
    assert not checkpoint.module.training and not any(p.is_meta for p in checkpoint.module.parameters())


def test_saved_file_says_everything(tiny, path):
    config = get_system("ours").presets["tiny"]
    save_checkpoint(path, tiny, "ours", config, dataset="mosei", thresholds=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    checkpoint = load_checkpoint(path)
    assert (checkpoint.dataset, checkpoint.labels, checkpoint.thresholds[1]) == ("mosei", MOSEI, 0.2)
    assert checkpoint.notes == ()
    assert [p.name for p in path.parent.iterdir()] == ["ckpt.pt"]
    assert load_checkpoint(path, dataset="iemocap").labels == IEMOCAP
    save_checkpoint(path, tiny, "ours", checkpoint.config, dataset="mine", labels=list("abcdef"))
    assert load_checkpoint(path).labels == tuple("abcdef")


def test_sizes_that_nobody_published_are_read_from_the_shapes(path):
    plan = [8, 12, 0, 12, 16, 0, 0]
    chosen = {
        "visual": {"stem": 8, "stem_kernel": 3, "stem_bias": False, "plan": plan, "hidden": 20, "form": "reserved"},
        "audio": {"width": 8, "depths": [1, 2, 1], "classes": 3, "focal_levels": 3, "patch": 2},
        "text": {"embedding": 8, "width": 24, "feed_forward": 30, "positions": 64, "vocabulary": 99},
        "encoder": {"width": 12, "feed_forward": 9, "layers": 2},
        "labels": 3,
    }
    config = get_system("ours").config(chosen)
    torch.save(seeded_module("ours", config).state_dict(), path)
    assert load_checkpoint(path).config == to_dict(config)


def test_the_tensors_decide_the_form(path):
    presets = get_system("v2em").presets
    save_checkpoint(path, seeded_module("v2em", presets["tiny-deployed"]), "v2em", presets["tiny"], dataset="mosei")
    checkpoint = load_checkpoint(path)
    assert checkpoint.form == "deployed" and checkpoint.config == to_dict(presets["tiny-deployed"])


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("state_dict", "module."),
        ("state_dict", "model."),
        ("model", "_orig_mod."),
        ("model", "module._orig_mod."),
        ("net", "net."),
        ("state_dict", "model.net.module."),
        ("model_state_dict", "somebodys_own_name."),
        ("state_dict", "net._fsdp_wrapped_module."),
    ],
)
def test_wrapped_modules(state, path, key, prefix):
    torch.save({key: OrderedDict((prefix + name, t) for name, t in state.items()), "epoch": 3}, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.system == "ours" and "prefix" in checkpoint.notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(state, path, dtype):
    torch.save({n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}, path)
    checkpoint = load_checkpoint(path)
    assert any(f"from {str(dtype)[6:]} to float32" in note for note in checkpoint.notes)
    assert {t.dtype for t in checkpoint.module.state_dict().values()} == {torch.float32, torch.int64}


def test_everything_halved_and_averaged(state, path):
    """``{k: v.half()}`` halves BatchNorm's integer counters too; AveragedModel adds one of its own."""
    halved = {f"module.{name}": tensor.half() for name, tensor in state.items()}
    torch.save({"n_averaged": torch.tensor(3), **halved}, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.module.V[1].num_batches_tracked.dtype == torch.int64
    assert torch.equal(checkpoint.module.V[0].weight, state["V.0.weight"].half().float())


def test_what_shapes_do_not_tell_is_said(path):
    config = get_system("mult").config({"width": 20, "heads": 4}, "tiny")
    torch.save(seeded_module("mult", config).state_dict(), path)
    bare = load_checkpoint(path)
    assert "heads = 5, future_mask = True" in bare.notes[0]
    assert bare.assumptions == {"heads": 5, "future_mask": True}
    save_checkpoint(path, seeded_module("mult", config), "mult", config, dataset="mosei")
    assert load_checkpoint(path).notes == () and load_checkpoint(path).config["heads"] == 4


def test_one_changed_byte_among_the_weights(state, path):
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    at = content.find(state["A.0.head.weight"].numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    rejected(path, "truncated or damaged")


def test_legacy_format_and_file_name(state, tmp_path):
    path = tmp_path / "best_MOSEI.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert load_checkpoint(path).labels == MOSEI


def test_seeded_weights_are_the_same_again(tiny):
    again = seeded_module("ours", get_system("ours").presets["tiny"])
    other = seeded_module("ours", get_system("ours").presets["tiny"], seed=1)
    for name, tensor in tiny.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(tiny.V[0].weight, other.V[0].weight)


# Files that do not fit


def test_what_does_not_fit_is_listed_named_and_counted(state, path):
    state.pop("V.0.weight"), state.pop("t_out.bias")
    state["T.albert.extra"] = torch.zeros(1)
    state["v_out.weight"] = torch.zeros(6, 5)
    torch.save(state, path)
    message = rejected(path, r"does not fit ours \(residual form\): 2 missing \(.*V\.0\.weight").message
    assert "t_out.bias" in message and "1 unexpected (T.albert.extra)" in message
    assert "1 misshapen (v_out.weight is [6, 5] and must be [6, 16])" in message


def test_long_lists_are_cut_with_a_count(state, path):
    torch.save({n: t for n, t in state.items() if not n.startswith("A.")}, path)
    missing = sum(n.startswith("A.") for n in state)
    rejected(path, rf"does not fit ours .*: {missing} missing \(A\..*, and {missing - 5} more\)")


def test_another_system_than_asked_for(state, path):
    torch.save(state, path)
    rejected(path, r"does not fit v2em .* missing .* unexpected", system="v2em")
    with pytest.raises(UsageError, match="no system is called"):
        load_checkpoint(path, system="nonsense")
    with pytest.raises(UsageError, match="no data set 'ravdess' with 6 labels"):
        load_checkpoint(path, dataset="ravdess")


def test_config_that_contradicts_the_tensors(state, path):
    torch.save({"state_dict": state, "config": {"labels": 7}, "system": "ours"}, path)
    rejected(path, "misshapen")
    torch.save({"state_dict": state, "config": {"speed": "fast"}}, path)
    rejected(path, "unknown key 'speed'")


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"labels": ["a"] * 6}, "labels must be 6 different names"),
        ({"labels": ["a", "b"]}, "labels must be 6 different names"),
        ({"labels": ["a\n", *"bcdef"]}, "labels must be 6 different names"),
        ({"thresholds": [2.0] * 6}, "thresholds must be 6 numbers"),
        ({"thresholds": [float("nan")] * 6}, "thresholds must be 6 numbers"),
        ({"dataset": 5}, "its dataset is 5"),
    ],
)
def test_nonsense_beside_the_weights(tiny, path, extra, says):
    config = to_dict(get_system("ours").presets["tiny"])
    torch.save({"state_dict": tiny.state_dict(), "config": config, **extra}, path)
    rejected(path, says)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(state, path, value):
    state["A.0.layers.0.blocks.0.mlp.fc1.weight"] = state["A.0.layers.0.blocks.0.mlp.fc1.weight"].clone()
    state["A.0.layers.0.blocks.0.mlp.fc1.weight"][1, :2] = value
    torch.save(state, path)
    rejected(path, r"A\.0\.layers\.0\.blocks\.0\.mlp\.fc1\.weight holds 2 values that are NaN or infinite")


def test_wrong_kinds_of_numbers(state, path):
    torch.save({**state, "V.0.bias": torch.zeros(8, dtype=torch.int32)}, path)
    rejected(path, r"V\.0\.bias is torch\.int32 and must be torch\.float32")
    torch.save({**state, "V.0.bias": torch.zeros(8, dtype=torch.complex64)}, path)
    rejected(path, r"V\.0\.bias is torch\.complex64")
    torch.save({**state, "V.1.running_var": -torch.ones(8)}, path)
    rejected(path, r"V\.1\.running_var holds a negative variance")


# Files that are no checkpoints


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil-was-run",)


def test_pickled_module_names_the_class_and_how_to_convert(path):
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    error = rejected(path, r"holds pickled Python objects \(torch\.nn\.modules\.container\.Sequential\)")
    assert "torch.save(model.state_dict()" in error.hint


@pytest.mark.parametrize("modern", [True, False])
def test_code_in_a_pickle_is_not_run(path, modern, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, path, _use_new_zipfile_serialization=modern)
    rejected(path, r"pickled Python objects \(posix.mkdir")
    path.write_bytes(pickle.dumps(Evil()))
    rejected(path, "not a PyTorch checkpoint but a pickle")
    assert not (tmp_path / "evil-was-run").exists()


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("modern", [True, False])
def test_truncated(state, path, kept, modern):
    torch.save(state, path, _use_new_zipfile_serialization=modern)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    rejected(path, r"is empty \(0 bytes\)" if kept == 0 else "truncated or damaged")


def test_flipped_bytes_in_the_pickle_never_escape(state, path):
    """Whatever a damaged header makes the reader do, the answer is an error of ours or a checked checkpoint."""
    torch.save({"state_dict": state, "config": to_dict(get_system("ours").presets["tiny"])}, path)
    with zipfile.ZipFile(path) as archive:
        records = {i.filename: archive.read(i) for i in archive.infolist()}
    name = next(n for n in records if n.endswith("data.pkl"))
    for position in range(2, len(records[name]), len(records[name]) // 25):
        damaged = bytearray(records[name])
        damaged[position] ^= 0x2A
        with zipfile.ZipFile(path, "w") as archive:
            for other, data in records.items():
                archive.writestr(other, bytes(damaged) if other == name else data)
        try:
            load_checkpoint(path)
        except (BadDataError, UsageError) as e:
            assert "\n" not in str(e)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"epoch,loss\n1,0.5\n", "not a PyTorch checkpoint but a text file"),
        (b"\x08\x0a\x12\x07pytorch\x1a\x06", "not a PyTorch checkpoint but an ONNX graph"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"__metadata__"', "not a PyTorch checkpoint but looks like safetensors"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"V.0.weight":' + bytes(40), "truncated or damaged"),
        (bytes(range(256)) * 4, "not a PyTorch checkpoint"),
    ],
)
def test_other_files(path, content, says):
    path.write_bytes(content)
    rejected(path, says)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_no_file_directory_and_other_zips(path):
    rejected(path, "does not exist")
    rejected(path.parent, "is not a file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "hello")
    rejected(path, "a zip archive but not a PyTorch checkpoint")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    rejected(path, "a TorchScript program")


def test_compressed_archive_is_rejected(state, path):
    """A few kilobytes of deflated zeros could claim the machine's memory."""
    buffer = io.BytesIO()
    torch.save({"V.4.block.conv1.weight": torch.zeros(1000, 1000)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    rejected(path, "compressed or overlapping records")


def test_tensors_that_claim_more_than_they_are(state, path):
    key = "A.0.layers.0.blocks.0.mlp.fc1.weight"
    torch.save({**state, key: torch.zeros(1).expand(10**7, 10**7)}, path)
    rejected(path, r"declares \(10000000, 10000000\)")
    torch.save({**state, key: torch.zeros(3, 3).to_sparse()}, path)
    rejected(path, "not a plain dense tensor")
    torch.save({**state, key: torch.zeros(3, 3, device="meta")}, path)
    rejected(path, "not a plain dense tensor")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "holds no tensors"),
        ([torch.zeros(2)], "holds a list, not a state dict"),
        (torch.zeros(2), "holds a Tensor, not a state dict"),
        ({"state_dict": {"state_dict": {}}}, "'state_dict' is a dict, not a tensor"),
        ({"state_dict": {3: torch.zeros(2)}}, "a key is a int, not a name"),
        ({"weights\n\x1b[31m": torch.zeros(2)}, "is no checkpoint of a system that mmx knows: 1 tensors"),
        ({"V.99999999999.block.conv2.weight": torch.zeros(2, 2)}, "does not fit ours"),
        ({"A.0.layers.99999999999999999999.x": torch.zeros(2, 2), "t_out.weight": torch.zeros(0)}, "does not fit ours"),
    ],
)
def test_nested_junk(path, content, says):
    torch.save(content, path)
    rejected(path, says)


def test_deep_nesting(path):
    payload = b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."
    buffer = io.BytesIO()
    torch.save({}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for record in old.infolist():
            new.writestr(record.filename, payload if record.filename.endswith("data.pkl") else old.read(record))
    rejected(path, "holds a list|truncated or damaged")


def test_weights_that_were_never_trained_are_known(tmp_path: Path) -> None:
    """By BatchNorms that have counted no batch; one that has is enough."""
    config = get_system("ours").presets["tiny"]
    module = seeded_module("ours", config)
    save_checkpoint(tmp_path / "seeded.pt", module, "ours", config, dataset="iemocap")
    assert load_checkpoint(tmp_path / "seeded.pt").untrained
    counts = [tensor for name, tensor in module.state_dict().items() if name.endswith("num_batches_tracked")]
    counts[-1] += 1
    save_checkpoint(tmp_path / "trained.pt", module, "ours", config, dataset="iemocap")
    assert counts and not load_checkpoint(tmp_path / "trained.pt").untrained
