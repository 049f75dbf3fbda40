"""Shows a trained model at work, in about a minute: it judges a sentence and translates another. You see the layers
that ran for each token (█ run, · skipped), the answer at full depth, and the time that both take on this machine. The
backbone of the model that comes with dlskip is made from a small package on first use."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from dlskip.commands import count

# Two tasks of the embedded suite: sentiment, and German to English.
PROMPTS = (
    "The room was clean but the staff were rude.\nSentiment:",
    "Die Tante wird das weiße Haus reparieren.\nEnglish:",
)


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--prompt", action="append", help="instead of these two (repeat for more)")
    parser.add_argument("--max-new-tokens", type=count, default=32, help="of an answer (default: %(default)s)")
    parser.add_argument("--repeats", type=count, default=5, help="timed turns (default: %(default)s)")


def run(options: Namespace) -> None:
    """Runs it."""
    import torch

    from dlskip.commands.loading import load_model
    from dlskip.inference.watch import drawn, watch
    from dlskip.provenance import device_name

    model, tokenizer = load_model(options)
    config = model.dlskip_release.config
    device = model.device.type
    where = device_name(device) + (f", {torch.get_num_threads()} threads" if device == "cpu" else "")
    print(f"{options.model}: {config.layers} layers, {str(model.dtype).removeprefix('torch.')}, on {where}")
    print(f"a layer is skipped (·) if its controller's probability exceeds {config.threshold:g}, else it runs (█)")
    for prompt in options.prompt or PROMPTS:
        pair = watch(model, tokenizer, prompt, max_new_tokens=options.max_new_tokens, repeats=options.repeats)
        print("", *drawn(prompt, *pair), sep="\n")
    print(f"\nanother prompt: dlskip try {options.model} --prompt ...; --threshold 0.3 skips more, 1 skips nothing")
