"""A leaner forward for inference: the same weights and results as Transformers' own, with less work around them."""

from dlskip.fast.stack import use_fast_path

__all__ = ["use_fast_path"]
