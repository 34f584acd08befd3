"""A tokenizer for systems that are trained from nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from mmx.runtime.errors import BadDataError
from mmx.runtime.files import write_bytes


def train_tokenizer(texts: Sequence[str], folder: Path, pieces: int = 1000) -> Path:
    """A unigram ``spiece.model`` of at most so many pieces, with ALBERT's special ids, learned from ``texts``.

    For systems that are trained from nothing: the published vocabulary belongs to the published text weights.

    Returns:
        ``folder``, which holds it.

    Raises:
        BadDataError: too little text to learn from.
    """
    model = io.BytesIO()  # a model that is trained into a file holds that file's path
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text.lower() for text in texts]),
            model_writer=model,
            model_type="unigram",
            vocab_size=pieces,
            hard_vocab_limit=False,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as e:
        raise BadDataError(f"no tokenizer can be learned from {len(texts)} texts: {e}", "give --tokenizer") from e
    write_bytes(folder / "spiece.model", model.getvalue())
    return folder
