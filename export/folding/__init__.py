"""Exact rewrites of a trained system into fewer and plainer operations. Start at ``fold.fold``."""
