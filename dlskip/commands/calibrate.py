"""Finds the threshold on held-out rows, or the price for controllers that are told one: for a budget (--layers-run 0.7:
at most that share of the layers on average), or for a bound on the quality lost (--max-drop 0.01, guaranteed with
probability 1 - delta by learn-then-test). Stores it in the checkpoint, so that `from_pretrained` uses it, and every
setting measured, so that `from_pretrained(budget=...)` can choose another."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from dlskip.commands import count, share

GRID = [round(1 - i / 20, 2) for i in range(20)]  # 1 skips nothing: the most conservative


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--data", type=Path, required=True, help="held-out JSON lines with `prompt` [and `target`]")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--layers-run", type=float, help="budget: mean share of the layers, e.g. 0.7")
    goal.add_argument("--max-drop", type=float, help="bound on the mean quality lost against full depth, e.g. 0.01")
    parser.add_argument("--delta", type=float, default=0.05, help="how often the bound may fail (default: %(default)s)")
    parser.add_argument("--agreement", action="store_true", help="judge by agreement with full depth, not by targets")
    parser.add_argument("--thresholds", type=share, nargs="+", help="the grid (1, 0.95 ... 0.05, or prices)")
    parser.add_argument("--rows", type=count, help="only the first rows")
    parser.add_argument("--max-new-tokens", type=count, default=64)
    parser.add_argument("--batch", type=count, default=8, help="rows at a time; does not change the results")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="where to write the checkpoint with its threshold")


def run(options: Namespace) -> None:
    """Runs it."""
    from dataclasses import asdict

    import numpy as np

    from dlskip.calibration import for_budget, for_quality, measure
    from dlskip.commands.loading import load, read_rows, targets
    from dlskip.hub.pretrained import calibrated
    from dlskip.skip import skipper_of

    rows = read_rows(options.data, options.rows)
    judged = not options.agreement and all(row.target is not None for row in rows)
    model, tokenizer = load(options)
    prices = None if options.thresholds else skipper_of(model).prices
    grid = np.geomspace(*prices, 13).tolist() if prices else options.thresholds or GRID
    found = measure(
        model, tokenizer, [row.prompt for row in rows], grid, knob="price" if prices else "threshold",
        references=[t.strip() for t in targets(rows, options.data)] if judged else None,
        max_new_tokens=options.max_new_tokens, batch=options.batch,
    )  # fmt: skip
    if options.layers_run is not None:
        chosen = for_budget(found, options.layers_run, delta=options.delta)
    else:
        chosen = for_quality(found, options.max_drop, delta=options.delta)
    sure = f"with probability {1 - options.delta:g}"
    print(f"{found.knob} {chosen.price or chosen.threshold:g}, on {chosen.n} rows judged by {chosen.quality}:")
    print(f"  layers run {chosen.layers_run:.1%} [{chosen.layers_run_low:.1%}, {chosen.layers_run_high:.1%}]")
    print(f"  quality lost {chosen.drop:.4f} on these rows; {sure} at most {chosen.drop_bound:.4f} on others like them")
    if options.save:
        calibrated(model, asdict(chosen))
        model.save_pretrained(options.save)
        print(f"written: {options.save}")
