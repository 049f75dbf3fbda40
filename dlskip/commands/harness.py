"""EleutherAI's lm-evaluation-harness with the model type `dlskip`. All arguments are the harness's own:
`dlskip harness --model dlskip --model_args pretrained=FOLDER,threshold=0.4 --tasks ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def call(arguments: Sequence[str]) -> None:
    """Hands the arguments to the harness.

    Raises:
        DlskipError: What ``dlskip.evaluation.harness.SkipLM`` raises.
        ModuleNotFoundError: The harness is not installed.
    """
    from lm_eval.__main__ import cli_evaluate

    import dlskip.evaluation.harness  # noqa: F401 - names the model type

    sys.argv = ["dlskip harness", *arguments]
    cli_evaluate()
