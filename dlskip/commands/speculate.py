"""Decodes prompts losslessly (skipping drafts, full depth verifies) and at full depth, in turn: how many outputs are
identical, how many drafts were accepted, and how much faster it is, task by task. Writes a table and JSON."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from dlskip.commands import count, share


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="JSON lines with `prompt`, a file per task")
    parser.add_argument("--rows", type=count, default=40, help="of each file (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=count, default=32)
    parser.add_argument("--draft-tokens", type=count, default=4, help="most tokens drafted before a verification")
    parser.add_argument(
        "--draft-confidence", type=share, default=0.0, help="stop drafting where the drafter is less sure"
    )
    parser.add_argument("--out", type=Path, default=Path("reports/bench"), help="directory (default: %(default)s)")


def run(options: Namespace) -> None:
    """Runs it."""
    from dlskip.bench.lossless import compare, write_comparisons
    from dlskip.commands.loading import check_out, load_model, read_rows
    from dlskip.inference.rules import check_room, special

    check_out(options.out, "--out")

    rows = [(path, row) for path in options.data for row in read_rows(path, options.rows)]
    model, tokenizer = load_model(options)
    prompts = [(path.parent.name or path.stem, tokenizer(row.prompt)["input_ids"]) for path, row in rows]
    check_room(model, max(len(prompt) for _, prompt in prompts) + options.max_new_tokens - 1)
    found = compare(
        model, prompts, tokens=options.max_new_tokens, drafts=options.draft_tokens,
        confidence=options.draft_confidence, pad=special(model, tokenizer)[1],
    )  # fmt: skip
    about = {
        "checkpoint": options.model, "threshold": model.dlskip_release.config.threshold, "compiled": options.compile,
        "most new tokens": options.max_new_tokens, "drafted at most": options.draft_tokens,
        "draft confidence": options.draft_confidence, "files": [str(path) for path in options.data],
    }  # fmt: skip
    table = write_comparisons(found, about, model, options.out)
    print(table.to_markdown(index=False, floatfmt=".2f"))
    print(f"written: {options.out}/lossless.md, lossless.json")
