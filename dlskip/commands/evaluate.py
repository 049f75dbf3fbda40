"""Answers every row's prompt at full depth and at each threshold: how many answers are the target (but for case and
outer space), how far they agree with full depth token by token, and the share of layers run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from dlskip.commands import count, share


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with `prompt` and `target`")
    parser.add_argument("--thresholds", type=share, nargs="+", default=[0.8, 0.7, 0.5, 0.4, 0.3])
    parser.add_argument("--rows", type=count, help="only the first rows")
    parser.add_argument("--max-new-tokens", type=count, default=64)
    parser.add_argument("--batch", type=count, default=8, help="rows at a time, each deciding for itself")


def run(options: Namespace) -> None:
    """Runs it."""
    import numpy as np
    import pandas as pd
    from tqdm.auto import tqdm

    from dlskip.calibration import agreement, answers, exact_match, layers_run
    from dlskip.commands.loading import load_model, read_rows, targets
    from dlskip.skip import FullDepth, Threshold

    rows = read_rows(options.data, options.rows)
    expected = targets(rows, options.data)
    policies = {"full depth": FullDepth(), **{f"{t:g}": Threshold(t) for t in options.thresholds}}
    model, tokenizer = load_model(options)
    lines = []
    full = None
    for name, policy in tqdm(policies.items(), desc="evaluate", mininterval=2.0):
        found = answers(
            model, tokenizer, [row.prompt for row in rows], policy, max_new_tokens=options.max_new_tokens,
            batch=options.batch,
        )  # fmt: skip
        full = full or found
        texts = [str(tokenizer.decode(d.tokens, skip_special_tokens=True)) for d in found]
        scores = {
            "exact match": [exact_match(*pair) for pair in zip(texts, expected, strict=True)],
            "agreement": [agreement(d.tokens, f.tokens) for d, f in zip(found, full, strict=True)],
            "layers run": [layers_run(d) for d in found],
        }
        lines.append({"threshold": name} | {f"{key} %": 100 * float(np.mean(v)) for key, v in scores.items()})
    print(pd.DataFrame(lines).to_markdown(index=False, floatfmt=".1f"))
    print(f"{len(rows)} rows of {options.data}")
