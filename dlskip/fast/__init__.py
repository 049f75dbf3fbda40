"""The fast path for inference: weights and results of Transformers' own forward, with less work around them."""

from dlskip.fast.stack import use_fast_path

__all__ = ["use_fast_path"]
