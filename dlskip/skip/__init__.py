"""Skipping itself: adapters, controllers, policies, the KV rule, and the wrapping of a backbone's layers."""

from dlskip.skip.model import Skipper, attach, skipper_of
from dlskip.skip.passes import Deciders
from dlskip.skip.policy import Forced, FullDepth, Policy, RandomSkip, Sampled, Strategy, Threshold

__all__ = [
    "Deciders", "Forced", "FullDepth", "Policy", "RandomSkip", "Sampled", "Skipper", "Strategy", "Threshold",
    "attach", "skipper_of",
]  # fmt: skip
