"""A small SentencePiece model with ALBERT's special ids, for demos and tests: python demo/tokenizer.py FOLDER

The published vocabulary comes from a model hub; this one is trained in seconds, on the docstrings of the Python
installation at hand, so that a bundle can be made and tried without a download. Its ids are not ALBERT's: a trained
checkpoint needs the `spiece.model` that it was trained with.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

ALBERT_VOCABULARY = 30000  # rows of the word embedding: no id may reach it
TEXT_BYTES = 1_500_000


def train_tokenizer(folder: Path, pieces: int = 4000, text_bytes: int = TEXT_BYTES) -> Path:
    """Train a unigram model of about ``pieces`` pieces; writes and returns ``folder/spiece.model``.

    Ids as in ALBERT's model: <pad> 0, <unk> 1, [CLS] 2, [SEP] 3, [MASK] 4, then the symbols that
    always stand alone.
    """
    if not 300 <= pieces <= ALBERT_VOCABULARY:
        raise ValueError(f"pieces must be 300 to {ALBERT_VOCABULARY}, not {pieces}")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "spiece.model"
    with tempfile.TemporaryDirectory(dir=folder) as work:
        prefix = Path(work) / "spiece"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(text_bytes),
            model_prefix=str(prefix),
            model_type="unigram",
            vocab_size=pieces,
            hard_vocab_limit=False,
            character_coverage=0.9999,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
            user_defined_symbols=list('()"-.–£€'),
            num_threads=2,
            minloglevel=2,
        )
        prefix.with_suffix(".model").replace(target)
    return target


def _sentences(limit: int) -> Iterator[str]:
    """Docstring lines of the standard library, in a fixed order, ``limit`` bytes in all."""
    taken = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                continue
            for line in (ast.get_docstring(node) or "").splitlines():
                if line := line.strip().lower():
                    taken += len(line)
                    yield line
        if taken > limit:
            return


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python demo/tokenizer.py FOLDER")
    print(train_tokenizer(Path(sys.argv[1])))
