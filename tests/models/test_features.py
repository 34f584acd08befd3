"""LF-LSTM, LF-TRANS and MulT: published outputs, lengths, and the public code's padding behaviour behind its flag."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.models.checkpoint import load_checkpoint, seeded_module
from mmx.models.config import to_dict
from mmx.models.lstm import BiLstm
from mmx.models.mult import Positions
from mmx.models.registry import SYSTEMS, get_system

FEATURES = [name for name, system in SYSTEMS.items() if system.inputs == "features"]
LENGTHS = [(4, 9, 2), (7, 1, 5), (1, 12, 12), (6, 6, 6)]  # text, audio, visual


def count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


def sample(config, number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    sizes = (config.text, config.audio, config.visual)
    return [torch.randn(n, size, generator=generator) for n, size in zip(LENGTHS[number], sizes, strict=True)]


def pack(samples, junk: float = 0.0, extra: int = 0):
    """The graph's inputs: three padded sequences, three lengths. ``junk`` is what the padding holds."""
    sequences, lengths = [], []
    for parts in zip(*samples, strict=True):
        lengths.append(torch.tensor([len(p) for p in parts]))
        longest = max(len(p) for p in parts) + extra
        sequences.append(torch.stack([nn.functional.pad(p, (0, 0, 0, longest - len(p)), value=junk) for p in parts]))
    return (*sequences, *lengths)


@pytest.mark.parametrize(
    ("keys", "name", "system"),
    [("lf_rnn", "c1", "lf-lstm"), ("lf_transformer", "c1", "lf-trans"), ("mult_6emo", "u1", "mult")],
)
def test_published_outputs(keys, name, system, filled, case, relative_error, tmp_path):
    path = tmp_path / "file.pt"
    torch.save(filled(keys), path)
    checkpoint = load_checkpoint(path, dataset="iemocap")
    assert (checkpoint.system, checkpoint.form) == (system, "training")
    data = case(keys, name)
    sequences = [data[f"in/{part}"] for part in ("text", "audio", "video")]
    sequences = [x if x.ndim == 3 else x[None] for x in sequences]
    lengths = [torch.tensor([x.shape[1]]) for x in sequences]
    with torch.no_grad():
        logits = checkpoint.module(*sequences, *lengths)
    for got, key in zip(logits, ("fused", "logits_t", "logits_v", "logits_a"), strict=False):
        assert relative_error(got, data[f"out/{key}"]) < 2e-5
    if system == "mult":
        with torch.no_grad():
            hidden = checkpoint.module.features(*sequences, *lengths)
        assert relative_error(hidden, data["out/last_hs"]) < 2e-5


def test_eight_outputs(filled, tmp_path):
    path = tmp_path / "iemocap8.pt"
    state = filled("mult_iemocap8")
    state["trans_l_mem.embed_positions._float_tensor"] = torch.tensor([float("nan")])  # never filled upstream either
    torch.save(state, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.config["labels"] == len(checkpoint.labels) == 8 and checkpoint.dataset == "iemocap"


def test_exact_counts():
    for system, labels, expected in (
        ("lf-lstm", 6, 2_026_336),
        ("lf-trans", 6, 4_898_702),
        ("mult", 1, 1_073_731),
        ("mult", 6, 1_074_636),
        ("mult", 8, 1_074_998),
    ):
        with torch.device("meta"):
            module = get_system(system).build({"labels": labels})
        assert count(module.parameters()) == expected
        assert expected in get_system(system).parameters.values()
    for system in ("lf-lstm", "lf-trans"):
        with torch.device("meta"):
            named = list(get_system(system).build().named_parameters())
        for part in ("text", "audio", "visual"):
            branch = [p for name, p in named if name.split(".")[1] == part[0]]
            assert count(branch) == get_system(system).parameters[part]


@pytest.fixture(scope="module", params=FEATURES)
def tiny(request):
    return seeded_module(request.param, get_system(request.param).presets["tiny"], seed=5)


@torch.no_grad()
def test_batch_order_and_padding_do_not_matter(tiny, relative_error):
    samples = [sample(tiny.config, i) for i in range(len(LENGTHS))]
    alone = [tiny(*pack([s])) for s in samples]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 1]):
        for junk in (0.0, 7.0, float("nan")):
            together = tiny(*pack([samples[i] for i in order], junk, extra=3))
            for row, logits in zip(order, zip(*together, strict=True), strict=True):
                for got, expected in zip(logits, alone[row], strict=True):
                    assert relative_error(got, expected[0]) < 1e-5


@torch.no_grad()
def test_an_empty_sequence_is_one_row_of_zeros(tiny, relative_error):
    parts = sample(tiny.config, 0)
    for hole in range(3):
        zeros = [torch.zeros(1, p.shape[1]) if i == hole else p for i, p in enumerate(parts)]
        inputs = list(pack([zeros], extra=4))
        expected = tiny(*inputs)
        inputs[hole] = torch.full_like(inputs[hole], 3.0)
        inputs[3 + hole] = torch.zeros(1, dtype=torch.int64)
        for got, wanted in zip(tiny(*inputs), expected, strict=True):
            assert relative_error(got, wanted) < 1e-6


@torch.no_grad()
def test_original_padding_reads_the_padding(tiny, relative_error):
    """With the flag, padding is data, but in the audio and visual encoders of LF-TRANS, which mask it upstream too."""
    samples = [sample(tiny.config, i) for i in range(len(LENGTHS))]
    inputs = pack(samples)
    careful = tiny(*inputs)
    tiny.original_padding = True
    try:
        original = tiny(*inputs)
    finally:
        tiny.original_padding = False
    assert relative_error(original[0], careful[0]) > 1e-3
    full = [torch.full_like(n, x.shape[1]) for x, n in zip(inputs[:3], inputs[3:], strict=True)]
    masked = [1, 2] if "transformers" in dict(tiny.named_children()) else []
    lengths = [inputs[3 + i] if i in masked else full[i] for i in range(3)]
    for got, wanted in zip(original, tiny(*inputs[:3], *lengths), strict=True):
        assert relative_error(got, wanted) < 1e-6


@torch.no_grad()
def test_lstm_is_torchs(relative_error):
    torch.manual_seed(0)
    ours = BiLstm(6)
    theirs = nn.LSTM(6, 6, bidirectional=True, batch_first=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x, lengths = torch.randn(3, 8, 6), torch.tensor([8, 3, 1])
    last = torch.stack([row[n - 1] for row, n in zip(x, lengths, strict=True)])
    finals, outputs = ours.final_states(x, lengths), ours.last_output(x, lengths, last)
    for i, n in enumerate(lengths):
        rows, (states, _) = theirs(x[i : i + 1, :n])
        assert relative_error(finals[i], states.flatten()) < 1e-6
        assert relative_error(outputs[i], rows[0, -1]) < 1e-6


def test_positions():
    """sin and cos of place / 10000^(i / (half - 1)), places from 1; nothing where a row starts with 0."""
    x = torch.ones(1, 600, 10)
    x[0, 3, 0] = 0.0
    got = Positions(10)(x)[0].double()
    place = torch.arange(1, 601, dtype=torch.float64)[:, None]
    angle = place / 10000.0 ** (torch.arange(5, dtype=torch.float64) / 4)
    expected = torch.cat([angle.sin(), angle.cos()], dim=1)
    expected[3] = 0
    assert float((got - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("name", FEATURES)
def test_sizes_are_read_from_the_shapes(name, tmp_path):
    chosen = {"text": 16, "audio": 6, "visual": 15, "labels": 4}
    chosen |= {} if name == "lf-lstm" else {"layers": 3}
    config = get_system(name).config(chosen)
    path = tmp_path / "file.pt"
    torch.save(seeded_module(name, config).state_dict(), path)
    assert load_checkpoint(path).config == to_dict(config)
