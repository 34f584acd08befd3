"""Precision variants: an FP32 graph becomes an FP16 or BF16 one by rules that can say why, and the change is measured."""
