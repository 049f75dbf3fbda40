"""dlskip: dynamic layer skipping for large language models, trained with reinforcement learning."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# What users call, by the module that has it: imported when first asked for, so that `import dlskip` stays light.
_PUBLIC = {
    "from_pretrained": "hub.pretrained",
    "full_depth": "hub.pretrained",
    "release": "hub.pretrained",
    "trace": "inference.tracing",
    "speculate": "inference.speculative",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
