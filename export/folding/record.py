"""What a fold did to one module, or why it did nothing. Plain data: it goes into a bundle's manifest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FoldRecord:
    """One line of the folding report.

    Attributes:
        fold: conv_bn | unused_head; a block's own name for its fold (repvgg, residual_free, tokens...); or layer_norm,
            which nothing can fold.
        module: dotted path in the system; ``A (36 modules)`` where one line speaks for many.
        applied: whether the module was rewritten.
        reason: what it became, or why it was left alone.
    """

    fold: str
    module: str
    applied: bool
    reason: str
