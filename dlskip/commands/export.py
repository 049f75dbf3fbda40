"""Writes a plain Transformers checkpoint without the layers that some prompts never or hardly use, for engines
that cannot skip. LoRA is folded in; adapters and controllers have no place in a plain model and are left out, so how
far its answers agree with the skipping model's is measured and printed: fine-tune it if that is too little."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from dlskip.commands import count, share


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with `prompt`: what it will be used on")
    parser.add_argument("--used", type=share, default=0.05, help="a layer stays if this share of tokens runs it")
    parser.add_argument("--rows", type=count, default=64, help="only the first rows (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=count, default=32)


def run(options: Namespace) -> None:
    """Runs it."""
    import numpy as np

    from dlskip.calibration import agreement
    from dlskip.commands.loading import check_out, load_model, read_rows
    from dlskip.hub.pretrained import plain
    from dlskip.inference.decode import decode
    from dlskip.inference.export import cut, usage
    from dlskip.inference.rules import special
    from dlskip.skip import skipper_of

    check_out(options.out, "out", new=True)
    prompts = [row.prompt for row in read_rows(options.data, options.rows)]
    model, tokenizer = load_model(options)
    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    stops, pad = special(model, tokenizer)
    limits: dict[str, Any] = {"eos": stops, "pad": pad, "max_new_tokens": options.max_new_tokens}
    skipper = skipper_of(model)
    skipping = decode(model, skipper, encoded, **limits)
    shares = usage(skipping)
    keep = [i for i, share in enumerate(shares) if share >= options.used or i in (0, len(shares) - 1)]
    plain(model)
    small = cut(model, keep)
    found = decode(small, None, encoded, **limits)
    same = float(np.mean([agreement(a.tokens, b.tokens) for a, b in zip(skipping, found, strict=True)]))
    small.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    gone = ", ".join(str(i) for i in range(len(shares)) if i not in keep) or "none"
    print(f"layers left out: {gone}; {len(keep)} of {len(shares)} remain")
    print(f"{same:.1%} of its tokens on {len(prompts)} prompts are the skipping model's")
    print(f"written: {options.out}")
