"""Times prefill and decoding under `generate()`, every engine in turn in one process: the model at full depth, with
random masks of fixed shares and with its learned policy; the plain backbone, models cut to the same depth, and
Transformers' early-exit drafter. Writes JSON, CSV, a table and a picture, and says where skipping loses."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from dlskip.commands import count, share, whole
from dlskip.errors import DlskipError

PROMPT = "The quick brown fox jumps over the lazy dog, and then it looks around and sees that nobody has watched it."


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--out", type=Path, default=Path("reports/bench"), help="directory (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="JSON lines with `prompt` (default: one English sentence)")
    parser.add_argument("--batches", type=count, nargs="+", default=[1, 8, 16])
    parser.add_argument("--shares", type=share, nargs="+", default=[0.3, 0.5, 0.7], help="of layers, to skip")
    parser.add_argument("--thresholds", type=share, nargs="+", default=[0.5], help="of the learned policy")
    parser.add_argument("--tokens", type=count, default=32, help="new tokens after the first")
    parser.add_argument("--repeats", type=count, default=7, help="turns of every engine; one more warms up")
    parser.add_argument("--exit-at", type=whole, help="layers of the early-exit drafter (default: a third; 0: none)")
    parser.add_argument("--waits", action="store_true", help="does a GPU stand still while decisions are awaited?")


def run(options: Namespace) -> None:
    """Runs it."""
    from transformers import AutoModelForCausalLM

    from dlskip.bench.report import words
    from dlskip.bench.run import bench
    from dlskip.commands.loading import check_out, load_model, read_rows
    from dlskip.inference.rules import check_room, special
    from dlskip.skip import skipper_of

    check_out(options.out, "--out")
    rows = read_rows(options.data, max(options.batches)) if options.data else []
    model, tokenizer = load_model(options)
    layers = skipper_of(model).num_layers
    if options.exit_at is not None and options.exit_at >= layers:
        raise DlskipError(f"the model has {layers} layers", where="--exit-at", mend="fewer, or 0 for none")
    prompts = [tokenizer(text)["input_ids"] for text in [row.prompt for row in rows] or [PROMPT]]
    check_room(model, max(map(len, prompts)) + options.tokens)
    # Its weights are not tuned, which is all the same to the time that its layers take.
    plain = AutoModelForCausalLM.from_pretrained(
        model.name_or_path,
        revision=model.dlskip_release.config.base_revision,
        dtype=model.dtype,
        use_safetensors=True,
        trust_remote_code=options.trust_remote_code,
    )
    # Not frozen: torch multiplies the last tokens of a batch one by one where the output layer needs no gradient, and
    # the plain backbone is to be as fast as it can be.
    plain.to(model.device).eval()
    third = layers // 3 if options.exit_at is None else options.exit_at
    table = bench(
        plain, model, prompts, options.out, batches=options.batches,
        shares=options.shares, thresholds=options.thresholds, tokens=options.tokens, repeats=options.repeats,
        pad=special(model, tokenizer)[1], exit_at=third or None, compile=options.compile,
        profile=options.waits,
        about={"checkpoint": options.model, "prompts": str(options.data) if options.data else "one sentence"},
    )  # fmt: skip
    print(*words(table), sep="\n")
    print(f"written: {options.out}/bench.md, bench.svg, bench.json")
