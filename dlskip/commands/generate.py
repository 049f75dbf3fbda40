"""Continues a prompt, token by token as it comes, and says how many layers ran."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace

from dlskip.commands import count, share, whole
from dlskip.errors import DlskipError


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--prompt", help="the text to continue (default: standard input)")
    parser.add_argument("--max-new-tokens", type=count, default=64)
    parser.add_argument("--sample", action="store_true", help="draw tokens instead of taking the likeliest")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=share, default=1.0)
    parser.add_argument("--seed", type=whole, default=0, help="of --sample")
    parser.add_argument("--full-depth", action="store_true", help="skip nothing")
    parser.add_argument("--lossless", action="store_true", help="skipping drafts, full depth verifies: its very tokens")
    parser.add_argument("--layers", action="store_true", help="print the layers of every token afterwards")


def run(options: Namespace) -> None:
    """Runs it."""
    from contextlib import nullcontext

    import torch
    from transformers import TextStreamer

    import dlskip
    from dlskip.commands.loading import load_model
    from dlskip.data.io import is_text
    from dlskip.inference.rules import check_room, special
    from dlskip.inference.speculative import speculate

    prompt = sys.stdin.read().rstrip("\n") if options.prompt is None else options.prompt
    if not prompt:
        raise DlskipError("nothing to continue", where="--prompt")
    if not is_text(prompt):
        raise DlskipError("not UTF-8", where="--prompt", mend="give the text in UTF-8")
    if options.seed >= 2**63:
        raise DlskipError("must be below 2^63", where="--seed")
    if options.lossless and options.full_depth:
        raise DlskipError("nothing would be drafted", where="--lossless --full-depth", mend="leave one of them out")
    if not 0 < options.temperature < math.inf:
        raise DlskipError(
            "must be above 0 and finite", where="--temperature", mend="leave --sample out: the likeliest tokens"
        )
    model, tokenizer = load_model(options)
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    check_room(model, inputs["input_ids"].shape[1] + options.max_new_tokens - 1)
    stops, pad = special(model, tokenizer)
    torch.manual_seed(options.seed)
    if options.lossless:
        done = speculate(
            model, **inputs, max_new_tokens=options.max_new_tokens, do_sample=options.sample,
            temperature=options.temperature, top_p=options.top_p, eos_token_id=stops, pad_token_id=pad,
        )  # fmt: skip
        print(tokenizer.decode(done.sequences[0], skip_special_tokens=True))
        said = f"{done.acceptance_rate[0]:.0%} of the drafts accepted, {done.skipped_share[0]:.0%} skipped in drafting"
        print(said, file=sys.stderr)
        return
    how = {"temperature": options.temperature, "top_p": options.top_p} if options.sample else {}
    with dlskip.full_depth(model) if options.full_depth else nullcontext(), dlskip.trace(model) as report:
        ids = model.generate(
            **inputs, max_new_tokens=options.max_new_tokens, do_sample=options.sample,
            eos_token_id=stops or None, pad_token_id=pad,
            streamer=TextStreamer(tokenizer, skip_special_tokens=True), **how,
        )  # fmt: skip
    print(report, file=sys.stderr)
    if options.layers:
        for one in report.each_token(tokenizer, ids):
            print(f"{sum(one.ran):4d}  {''.join('█' if ran else '·' for ran in one.ran)}  {one.text!r}")
