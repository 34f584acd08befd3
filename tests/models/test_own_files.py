"""Checkpoints as other people's trainers write them: what is the network is found, what is not is named."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.models.checkpoint import load_checkpoint, save_checkpoint, seeded_module
from mmx.models.config import PARTS, to_dict
from mmx.models.counting import utterance
from mmx.models.description import read_description
from mmx.models.network_tensors import network_tensors
from mmx.models.pickle_protocol import to_protocol_2
from mmx.models.registry import get_system
from mmx.runtime.errors import BadDataError, UsageError

CONFIG = get_system("ours").presets["tiny"]
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    return seeded_module("ours", CONFIG)


@pytest.fixture(scope="module")
def average() -> State:
    """Other weights of the same network."""
    return dict(seeded_module("ours", CONFIG, seed=1).state_dict())


@pytest.fixture
def state(tiny) -> State:
    return dict(tiny.state_dict())


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "ckpt.pt"


def named(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def same(module: nn.Module, state: State) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


# What training leaves beside the network

BESIDE = {
    "loss.pos_weight": torch.ones(6),
    "criterion.weight": torch.ones(6),
    "val_f1.tp": torch.zeros(6),
    "train_metrics.confusion": torch.zeros(6, 6),
}


@pytest.mark.parametrize("prefix", ["", "net.", "model."])
@pytest.mark.parametrize("stray", BESIDE)
def test_what_training_keeps_beside_the_network_is_named(prefix, stray, state, path):
    torch.save({"state_dict": {**named(prefix, state), stray: BESIDE[stray]}, "epoch": 3}, path)
    checkpoint = load_checkpoint(path)
    assert same(checkpoint.module, state)
    (note,) = [n for n in checkpoint.notes if "beside the network" in n]
    assert stray in note


def test_what_is_not_known_beside_the_network_is_an_error_that_names_it(state, path):
    """A layer that the system does not have would change its answers: nothing of that kind is left out."""
    torch.save({**named("net.", state), "gate.weight": torch.zeros(3)}, path)
    with pytest.raises(BadDataError, match=r"1 unexpected \(gate\.weight\)"):
        load_checkpoint(path)


def test_two_networks_in_one_file_are_an_error_that_names_them(state, average, path):
    torch.save({**named("student.", state), **named("teacher.", average)}, path)
    with pytest.raises(BadDataError, match=r"2 networks, under student\., teacher\."):
        load_checkpoint(path)


# Averaged weights

AVERAGED = {
    "a key beside": lambda raw, average: {"state_dict": raw, "ema_state_dict": average},
    "timm": lambda raw, average: {"state_dict": raw, "state_dict_ema": average, "epoch": 7},
    "a wrapper's own state": lambda raw, average: {"model": raw, "ema": {"module": named("module.", average)}},
    "shadow": lambda raw, average: {"model": raw, "ema": {"decay": 0.99, "shadow": average}},
    "one state dict": lambda raw, average: {
        "state_dict": {**named("model.", raw), **named("ema_model.module.", average)}
    },
}


@pytest.mark.parametrize("layout", AVERAGED)
def test_averaged_weights_are_found_said_and_chosen(layout, state, average, path):
    torch.save(AVERAGED[layout](state, average), path)
    for weights, expected, other in (("auto", average, "raw"), ("ema", average, "raw"), ("raw", state, "ema")):
        checkpoint = load_checkpoint(path, weights=weights)
        assert same(checkpoint.module, expected)
        assert any(f"--weights {other}" in note for note in checkpoint.notes)


def test_what_has_no_average_comes_from_the_raw_weights_and_is_said(tiny, state, average, path):
    parameters = {name: average[name] for name, _ in tiny.named_parameters()}
    torch.save({"state_dict": state, "ema": {"shadow": parameters}}, path)
    checkpoint = load_checkpoint(path)
    assert same(checkpoint.module, {**state, **parameters})
    assert any("not averaged" in note and "running_mean" in note for note in checkpoint.notes)


def test_averages_without_names_are_said(state, path):
    torch.save({"state_dict": state, "ema": {"decay": 0.9, "shadow_params": list(state.values())}}, path)
    checkpoint = load_checkpoint(path)
    assert same(checkpoint.module, state)
    assert any("not by name" in note for note in checkpoint.notes)
    with pytest.raises(UsageError, match="no averaged weights"):
        load_checkpoint(path, weights="ema")


# Formats


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_newer_pickle_protocols_load(protocol, state, path):
    torch.save(
        {"state_dict": state, "config": to_dict(CONFIG), "labels": list("abcdef")}, path, pickle_protocol=protocol
    )
    checkpoint = load_checkpoint(path)
    assert same(checkpoint.module, state) and checkpoint.labels == tuple("abcdef")


def test_an_old_format_with_a_newer_protocol_is_named(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False, pickle_protocol=4)
    with pytest.raises(BadDataError, match="old format with pickle protocol 4"):
        load_checkpoint(path)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_code_in_newer_protocols_is_not_run(protocol, path):
    torch.save({"state_dict": {"V.0.weight": Evil()}}, path, pickle_protocol=protocol)
    with pytest.raises(BadDataError, match=r"pickled Python objects \((builtins\.)?exec"):
        load_checkpoint(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_another_protocol_says_the_same(protocol):
    shared = ["again", 2.5]
    value = {"a": [1, -1, 2**40, 0.1, None, True, "ü" * 300], "b": (shared, shared), "c": ({}, [], ()), "a ": b"raw"}
    if protocol == 2:
        del value["a "]  # bytes are a call in protocol 2
    rewritten = to_protocol_2(pickle.dumps(value, protocol=protocol))
    if protocol > 2:
        assert rewritten[:2] == b"\x80\x02"
    found = pickle.loads(rewritten)
    assert found == value and found["b"][0] is found["b"][1]


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_damaged_pickles_of_newer_protocols(cut):
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        to_protocol_2(pickle.dumps(list(range(1000)), protocol=4)[:-cut])


def test_safetensors(state, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file(state, path)
    checkpoint = load_checkpoint(path)
    assert same(checkpoint.module, state) and checkpoint.assumptions
    said = {"labels": json.dumps(list("abcdef")), "config": json.dumps(to_dict(CONFIG)), "dataset": "mine"}
    save_file(state, path, metadata=said)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.labels, checkpoint.dataset) == (tuple("abcdef"), "mine") and not checkpoint.assumptions
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadDataError, match="truncated or damaged"):
        load_checkpoint(path)


# What a bare state dict does not show


def test_heads_are_assumed_aloud_and_can_be_said(path):
    """Weights that were trained with 8 heads give other answers with 4, and no shape shows it."""
    config = get_system("ours").config({"encoder": {"heads": 8}, "text": {"layers": 3}}, "tiny")
    module = seeded_module("ours", config)
    torch.save(module.state_dict(), path)
    silent = load_checkpoint(path)
    assert silent.assumptions["encoder.heads"] == 4 and silent.assumptions["text.layers"] == 2
    assert any("encoder.heads = 4" in note and "--model-config" in note for note in silent.notes)
    informed = load_checkpoint(path, described={"config": {"encoder": {"heads": 8}, "text": {"layers": 3}}})
    assert set(informed.assumptions) == {"text.heads", "visual.simam"}
    inputs = {**utterance(7, 3, 2)}
    inputs["faces"] = torch.rand(3, 3, 48, 48) * 255
    with torch.no_grad():
        expected, right, wrong = (m(**inputs)[0] for m in (module, informed.module, silent.module))
    assert torch.equal(right, expected) and not torch.allclose(wrong, expected, atol=1e-3)


def test_what_the_file_itself_says_is_not_assumed(tiny, path):
    save_checkpoint(path, tiny, "ours", {"text": {"heads": 4, "layers": 2}})
    assert set(load_checkpoint(path).assumptions) == {"encoder.heads", "visual.simam"}
    save_checkpoint(path, tiny, "ours", CONFIG)
    assert load_checkpoint(path).assumptions == {}


# Without one modality's weights


def without(state: State, *modalities: str) -> State:
    gone = {part for name in modalities for part in PARTS[name]}
    return {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in gone}


@pytest.mark.parametrize("gone", [["text"], ["visual"], ["audio"], ["visual", "audio"], ["text", "visual"]])
@pytest.mark.parametrize("fusion", ["whole", "cut"])
def test_a_modality_without_weights_is_left_out(gone, fusion, tiny, state, path):
    kept = [name for name in tiny.modalities if name not in gone]
    rest = without(state, *gone)
    if fusion == "cut":
        columns = [tiny.modalities.index(name) for name in kept]
        rest["weighted_fusion.weight"] = rest["weighted_fusion.weight"][:, columns]
    torch.save(rest, path)
    checkpoint = load_checkpoint(path)
    assert list(checkpoint.module.modalities) == kept
    assert any("has no weights of " + " and ".join(gone) in note for note in checkpoint.notes)
    reference = seeded_module("ours", CONFIG)
    reference.keep(kept)
    assert same(checkpoint.module, dict(reference.state_dict()))


def test_half_a_modality_is_an_error(state, path):
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("V.")}, path)
    with pytest.raises(BadDataError, match=r"missing \(V\."):
        load_checkpoint(path)


# Files beside the checkpoint


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\nb\n\n c \n", {"labels": ["a", "b", "c"]}),
        ('["a", "b"]', {"labels": ["a", "b"]}),
        ('{"labels": ["a"], "thresholds": [0.3]}', {"labels": ["a"], "thresholds": [0.3]}),
    ],
)
def test_labels_file(content, expected, tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text(content)
    assert read_description(file, None) == expected


def test_config_file_in_json_and_toml(tmp_path):
    (tmp_path / "c.json").write_text('{"text": {"heads": 8}}')
    (tmp_path / "c.toml").write_text("[text]\nheads = 8\n")
    for name in ("c.json", "c.toml"):
        assert read_description(None, tmp_path / name) == {"config": {"text": {"heads": 8}}}


@pytest.mark.parametrize("content", [b"", b"{", b"[1", b'{"names": []}', b"\xff\xfe", b"a" * (2**20 + 1)])
@pytest.mark.parametrize("which", ["labels", "config"])
def test_nonsense_in_those_files(content, which, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(content)
    accepted = which == "config" and content.startswith(b'{"names')  # an object; its keys are checked with the system
    if accepted:
        return
    with pytest.raises(BadDataError, match=re.escape(str(file))) as caught:
        read_description(*((file, None) if which == "labels" else (None, file)))
    assert "\n" not in caught.value.message
    with pytest.raises(BadDataError, match="cannot be read"):
        read_description(tmp_path / "missing", None)


@pytest.mark.parametrize("described", [{"labels": ["a"]}, {"labels": list("abcdef"), "thresholds": [2.0] * 6}])
def test_labels_that_do_not_fit(described, state, path):
    torch.save(state, path)
    with pytest.raises(BadDataError, match="must be 6"):
        load_checkpoint(path, described=described)


def test_said_elsewhere_goes_before_the_file(tiny, path):
    save_checkpoint(path, tiny, "ours", CONFIG, dataset="iemocap", thresholds=[0.4] * 6)
    said = {"labels": list("uvwxyz"), "thresholds": [0.1] * 6}
    checkpoint = load_checkpoint(path, described=said)
    assert checkpoint.labels == tuple("uvwxyz") and checkpoint.thresholds == (0.1,) * 6
    with pytest.raises(BadDataError, match="unknown key 'speed'"):
        load_checkpoint(path, described={"config": {"speed": 1}})


def test_names_that_would_take_long_to_look_at(path):
    names = {f"{'a.' * 300}{i}": torch.zeros(1) for i in range(2000)}
    assert len(network_tensors(path, names).tensors) == 2000
