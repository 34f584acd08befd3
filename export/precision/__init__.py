"""Precision variants: an FP32 graph becomes FP16 or BF16 by rules that can say why, and the change is measured."""
