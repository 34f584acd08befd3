"""ALBERT token ids. Expected ids come from a second model of the same vocabulary (tokenizers' Unigram, or a Viterbi
search written here) and from what transformers 4's slow tokenizer gave for the same model (cases marked so)."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from mmx.runtime.errors import BadDataError, EnvironmentMissing
from mmx.runtime.extras import install_command
from mmx.runtime.manifest import TextSpec
from mmx.runtime.media.text import Tokenizer, clean

SPEC = TextSpec()
LONG = TextSpec(max_tokens=100_000)
SYMBOLS = '()"-.–£€'


@pytest.fixture(scope="module")
def folder(small_tokenizer: Path) -> Path:
    return small_tokenizer


@pytest.fixture(scope="module")
def model(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder, LONG)


def _viterbi(model: sentencepiece.SentencePieceProcessor, word: str) -> list[int]:
    """The best cut of one word (its pieces' scores add up), with the standing symbols cut out first."""
    scores = {model.id_to_piece(i): model.get_score(i) for i in range(5 + len(SYMBOLS), model.vocab_size())}
    ids: list[int] = []
    run = ""
    for character in [*word, None]:
        if character is not None and character not in SYMBOLS:
            run += character
            continue
        best: list[tuple[float, list[str]]] = [(0.0, [])]
        for end in range(1, len(run) + 1):
            options = [
                (best[start][0] + scores[run[start:end]], [*best[start][1], run[start:end]])
                for start in range(max(0, end - 20), end)
                if run[start:end] in scores and best[start][1] is not None
            ]
            best.append(max(options))
        ids += [model.piece_to_id(piece) for piece in best[-1][1]]
        ids += [model.piece_to_id(character)] if character else []
        run = ""
    return ids


def test_words_are_cut_as_the_unigram_model_says(
    tokenizer: Tokenizer, model: sentencepiece.SentencePieceProcessor
) -> None:
    text = 'i really don\'t know (well - you see). the end... "quoted" self-made u.s.a. (1999)-2000 £5 or €6 – x--y'
    expected = [i for word in text.split() for i in _viterbi(model, "\u2581" + word)]
    assert tokenizer.encode(text)[0].tolist() == [2, *expected, 3]


def test_numbers_and_commas_part(tokenizer: Tokenizer, model: sentencepiece.SentencePieceProcessor) -> None:
    pieces = [model.id_to_piece(i) for i in tokenizer.encode("in 2015, there were 12,345, and 7, so")[0][1:-1].tolist()]
    assert pieces.count(",") == 4
    assert not any(len(piece) > 1 and piece.endswith(",") for piece in pieces)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  Hello\t\n WORLD ", "hello world"),
        ("He said ``hi'' and don''t", 'he said "hi" and don"t'),
        ("Café naïve Å ﬁne ℡ İstanbul ΣΑΣ", "cafe naive a fine tel istanbul σασ"),
        ("a\ud800b \ud83d\ude00", "a\ufffdb \U0001f600"),
        ("", ""),
    ],
)
def test_cleaning(text: str, cleaned: str) -> None:
    assert clean(text, lower_case=True) == cleaned


def test_both_file_kinds_agree(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from_json = Tokenizer.load(_as_tokenizer_json(folder, tmp_path), LONG)
    rng = random.Random(0)
    text = (
        'the of function (object) - string "quoted" 2015, 3.14, end. self.args x=1; £3 – 50% CAN\'T Über ,, -- ... '
        "( ) [cls] [CLS] [SEP] <unk> <pad> \u2581 & @ # ``a'' 12,345, ﬁ ① 😀 日本 שלום a\x00b \u200b \ufffd"
    )
    words = text.split(" ")
    for _ in range(300):
        line = " ".join(rng.choice(words) for _ in range(rng.randint(0, 40)))
        assert from_json.encode(line)[0].tolist() == tokenizer.encode(line)[0].tolist(), line


def test_special_tokens_cannot_be_written(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("[SEP] [CLS] <pad> [MASK] a[SEP]b [sep]")[0]
    assert ids[0] == 2 and ids[-1] == 3 and not np.isin(ids[1:-1], [0, 2, 3, 4]).any()


def test_truncation_keeps_the_separator(folder: Path, tokenizer: Tokenizer) -> None:
    cut = Tokenizer.load(folder, SPEC)
    text = "word " * 5000
    ids, truncated = cut.encode(text)
    assert truncated and ids.dtype == np.int64 and len(ids) == 100 and ids[-1] == 3
    whole, untouched = tokenizer.encode(text)
    assert not untouched and whole[:99].tolist() == ids[:99].tolist()
    exactly = " ".join(["word"] * (98 // (len(tokenizer.encode("word")[0]) - 2)))
    assert cut.encode(exactly)[1] is False


@pytest.mark.parametrize(
    "text",
    ["", "   ", "\x00", "😀 👩‍👩‍👧", "שלום عולم مرحبا", "\u202eabc", "\ud800", "日本語", "\u200b", "\ufeff"],
)
def test_odd_texts_have_ids(tokenizer: Tokenizer, text: str) -> None:
    ids, truncated = tokenizer.encode(text)
    assert ids[0] == 2 and ids[-1] == 3 and not truncated and ids.dtype == np.int64
    assert text.strip() or len(ids) == 2


@pytest.mark.parametrize("text", ["a" * 10**6, "\ufdfa" * 10**6, "1," * 500_000, "\u200b " * 10**6, "é " * 10**6])
def test_megabytes_take_bounded_time(folder: Path, text: str) -> None:
    tokenizer = Tokenizer.load(folder, SPEC)
    started = time.process_time()
    ids, _ = tokenizer.encode(text)
    assert len(ids) <= 100 and time.process_time() - started < 5
    with pytest.raises(BadDataError, match="characters"):
        tokenizer.encode("a" * 10_000_001)


def test_broken_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with pytest.raises(BadDataError, match=r"holds no spiece\.model"):
        Tokenizer.load(tmp_path, SPEC)
    for name, data in (("spiece.model", b"not a model"), ("tokenizer.json", b"{}"), ("tokenizer.json", b"\xff")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadDataError, match=rf"{name} is not a"):
            Tokenizer.load(tmp_path, SPEC)
        (tmp_path / name).unlink()
    with pytest.raises(BadDataError, match=r"gives \[CLS\] the id 2, not 7"):
        Tokenizer.load(folder, TextSpec(cls_id=7))
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(EnvironmentMissing, match=re.escape(install_command("tokenizers"))):
        Tokenizer.load(tmp_path, SPEC)


def _as_tokenizer_json(folder: Path, out: Path) -> Path:
    """The model as transformers converts it: standing symbols as added tokens, pieces such as "5," penalised."""
    pytest.importorskip("tokenizers")
    from tokenizers import AddedToken, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Fast

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.vocab_size())]
    penalised = [(p, s - 100 if len(p) > 1 and p[-1] == "," and p[-2].isdigit() else s) for p, s in pieces]
    fast = Fast(models.Unigram(penalised, unk_id=1, byte_fallback=False))
    fast.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Nmt(), normalizers.NFKC()]
    )
    fast.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    fast.add_special_tokens([AddedToken(p, special=True) for p in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")])
    fast.add_tokens([AddedToken(p, normalized=False) for p in SYMBOLS])
    (out / "tokenizer.json").write_text(json.dumps(json.loads(fast.to_str())))
    return out
