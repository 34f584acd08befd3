"""Text -> ALBERT token ids: [CLS] ids [SEP], as the slow tokenizer that the published systems were trained with.

The text is cleaned (spaces, quotes, accents, case), cut into pieces by the SentencePiece model, and pieces such as
"2015," are cut once more so that the comma stands alone. Two things differ from that tokenizer on purpose: "[SEP]" or
"<unk>" written in the text stay text (there they became the special token, so that a transcript could forge the end of
its sentence), and lone surrogates become U+FFFD instead of an exception.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError, missing_extra
from mmx.runtime.manifest import TextSpec

SPACE = "\u2581"  # SentencePiece's mark for a space before a piece
MAX_CHARACTERS = 10_000_000
MAX_WORD = 20_000  # characters; what is beyond could not reach the ids unless it is one unknown piece
MAX_MODEL_BYTES = 64 * 2**20
HINT = "mmx export ckpt.pt --tokenizer FOLDER, with the spiece.model that the checkpoint was trained with"


@dataclass(frozen=True)
class _Unigram:
    """A unigram model: clean text -> pieces, and piece -> id (never that of a special token)."""

    pieces: Callable[[str], list[str]]
    id_of: Callable[[str], int]


class Tokenizer:
    """Text -> ids, with ALBERT's special tokens. Make one with ``load``."""

    def __init__(self, model: _Unigram, spec: TextSpec) -> None:
        self._model = model
        self._spec = spec

    @classmethod
    def load(cls, folder: Path, spec: TextSpec) -> Tokenizer:
        """Load the ``spiece.model`` of a folder or, where there is none, its ``tokenizer.json``.

        Both give the same ids. ``tokenizer.json`` needs the ``tokenizers`` package.

        Raises:
            BadDataError: neither file is there, or the file is broken, or its special ids are not the spec's.
            EnvironmentMissing: a tokenizer.json without the ``tokenizers`` package.
        """
        for name, read in (("spiece.model", _read_sentencepiece), ("tokenizer.json", _read_tokenizer_json)):
            path = Path(folder) / name
            if path.is_file():
                if path.stat().st_size > MAX_MODEL_BYTES:
                    raise BadDataError(f"{path} is larger than {MAX_MODEL_BYTES >> 20} MB", HINT)
                return cls(read(path, spec), spec)
        raise BadDataError(f"{folder} holds no spiece.model and no tokenizer.json", HINT)

    def encode(self, text: str) -> tuple[NDArray[np.int64], bool]:
        """int64 [tokens] with [CLS] and [SEP], and whether the text was cut to ``max_tokens``.

        No piece spans two words, so only as many words are looked at as are needed, however long the text.

        Raises:
            BadDataError: more than ten million characters.
        """
        if len(text) > MAX_CHARACTERS:
            raise BadDataError(f"the text has {len(text)} characters", f"mmx takes {MAX_CHARACTERS} at most")
        room = self._spec.max_tokens - 2
        words = text.split()
        ids: list[int] = []
        cut = False
        for start in range(0, len(words), room + 1):
            group = words[start : start + room + 1]
            cut = cut or max(map(len, group)) > MAX_WORD
            line = clean(" ".join(word[:MAX_WORD] for word in group), lower_case=self._spec.lower_case)
            ids += [self._model.id_of(part) for piece in self._model.pieces(line) for part in self._parts(piece)]
            if len(ids) > room:
                break
        return np.array([self._spec.cls_id, *ids[:room], self._spec.sep_id], np.int64), cut or len(ids) > room

    def _parts(self, piece: str) -> list[str]:
        """A piece that is a number and a comma, in two or more; any other as it is."""
        if len(piece) < 2 or piece[-1] != "," or not piece[-2].isdigit():
            return [piece]
        number = self._model.pieces(piece[:-1].replace(SPACE, ""))
        if number and not piece.startswith(SPACE) and number[0].startswith(SPACE):
            number = number[1:] if number[0] == SPACE else [number[0][1:], *number[1:]]
        return [*number, ","]


def clean(text: str, *, lower_case: bool) -> str:
    """The text as it goes into SentencePiece: one space between words, straight quotes, no accents, lower case."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if lower_case:
        text = "".join([character.lower() for character in text])  # one by one: a final sigma is any sigma
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    text = unicodedata.normalize("NFKD", text)
    text = "".join([character for character in text if not unicodedata.combining(character)])
    return text.lower() if lower_case else text


def _read_sentencepiece(path: Path, spec: TextSpec) -> _Unigram:
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(path.read_bytes())
    except (RuntimeError, OSError) as e:
        raise BadDataError(f"{path} is not a SentencePiece model", HINT) from e
    _check_specials(path, spec, model.piece_to_id)

    def id_of(piece: str) -> int:
        index: int = model.piece_to_id(piece)
        return model.unk_id() if model.is_control(index) else index

    return _Unigram(lambda text: model.encode(text, out_type=str), id_of)


def _read_tokenizer_json(path: Path, spec: TextSpec) -> _Unigram:
    """The same model from a tokenizer.json, with the conversion's changes to it undone.

    Symbols that always stand alone (user-defined pieces, score 0) are "added tokens" there, which puts a space mark
    before the word that follows them; pieces such as "5," lost 100 from their score, so as never to be chosen; and
    special tokens are found in the text.
    """
    try:
        import tokenizers
    except ImportError as e:
        raise missing_extra("tokenizers (which reads tokenizer.json)", "tokenizers") from e
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = described["model"]["vocab"]
        ids = {piece: index for index, (piece, _) in enumerate(vocabulary)}
        special = {token["content"] for token in described["added_tokens"] if token["special"]}
        unknown = int(described["model"]["unk_id"])
        described["model"]["vocab"] = [_restored(piece, score, special) for piece, score in vocabulary]
        described |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        model: Any = tokenizers.Tokenizer.from_str(json.dumps(described))
    except Exception as e:  # the package raises plain Exception
        raise BadDataError(f"{path} is not a unigram tokenizer: {e}", HINT) from e
    _check_specials(path, spec, ids.get)
    return _Unigram(lambda text: model.encode(text).tokens, lambda piece: ids.get(piece, unknown))


def _restored(piece: str, score: float, special: set[str]) -> tuple[str, float]:
    """A vocabulary entry as SentencePiece has it; a special one behind a space, where no text can reach it."""
    if piece in special:
        return f" {piece}", score
    penalised = score < -100 and piece[-2:-1].isdigit() and piece.endswith(",")
    return piece, score + 100 if penalised else score


def _check_specials(path: Path, spec: TextSpec, id_of: Callable[[str], int | None]) -> None:
    """Reject a model made for something other than ALBERT: its ids would mean other words."""
    for name, wanted in {"<pad>": spec.pad_id, "[CLS]": spec.cls_id, "[SEP]": spec.sep_id}.items():
        if id_of(name) != wanted:
            raise BadDataError(f"{path} gives {name} the id {id_of(name)}, not {wanted}", HINT)
