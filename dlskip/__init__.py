"""dlskip: dynamic layer skipping for large language models, trained with reinforcement learning."""

__version__ = "0.1.0"
