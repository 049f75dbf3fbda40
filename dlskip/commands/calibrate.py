"""Finds the threshold on held-out rows: for a budget (--layers-run 0.7: on average at most that share of the layers
runs), or for a bound on the quality lost (--max-drop 0.01, guaranteed with probability 1 - delta by learn-then-test).
For controllers conditioned on the price of a layer it finds the price instead. With --save it is stored in the
checkpoint, so that `from_pretrained` uses it, and so is every setting that was measured, so that
`from_pretrained(budget=...)` can choose another."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Literal

from dlskip.commands import count, positive, share
from dlskip.errors import DlskipError

GRID = [round(1 - i / 20, 2) for i in range(20)]  # 1 skips nothing: the most conservative


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--data", type=Path, required=True, help="held-out JSON lines with `prompt` [and `target`]")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--layers-run", type=share, help="budget: mean share of the layers, e.g. 0.7")
    goal.add_argument("--max-drop", type=float, help="bound on the mean quality lost against full depth, e.g. 0.01")
    parser.add_argument("--delta", type=share, default=0.05, help="how often the bound may fail (default: %(default)s)")
    parser.add_argument("--agreement", action="store_true", help="judge by agreement with full depth, not by targets")
    parser.add_argument("--thresholds", type=share, nargs="+", help="to choose from (default: 1, 0.95 ... 0.05)")
    parser.add_argument(
        "--prices", type=positive, nargs="+", help="to choose from instead (default: 13, lowest to highest)"
    )
    parser.add_argument("--rows", type=count, help="only the first rows")
    parser.add_argument("--max-new-tokens", type=count, default=64, help="of an answer (default: %(default)s)")
    parser.add_argument("--batch", type=count, default=8, help="rows at a time; does not change the results")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="where to write the checkpoint with its threshold")


def run(options: Namespace) -> None:
    """Runs it."""
    from dataclasses import asdict

    from dlskip.calibration import check_possible, for_budget, for_quality, measure_settings
    from dlskip.commands.loading import load_model, read_rows, targets
    from dlskip.hub.pretrained import calibrated
    from dlskip.hub.release import check_folder
    from dlskip.skip import skipper_of

    if options.save:
        check_folder(options.save)
    rows = read_rows(options.data, options.rows)
    check_possible(len(rows), options.max_drop, options.delta)
    judged = not options.agreement and all(row.target is not None for row in rows)
    model, tokenizer = load_model(options)
    knob, grid = _grid(options, skipper_of(model).prices)
    found = measure_settings(
        model, tokenizer, [row.prompt for row in rows], grid, knob=knob,
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


def _grid(options: Namespace, prices: tuple[float, float] | None) -> tuple[Literal["price", "threshold"], list[float]]:
    """What is varied, and the settings to choose from; ``prices`` is the range that the controllers know, if any.

    Raises:
        DlskipError: Prices are asked of controllers that know none, or thresholds of those that do.
    """
    if prices is None:
        if options.prices:
            raise DlskipError("these controllers know no price", where="--prices", mend="--thresholds, or neither")
        return "threshold", options.thresholds or GRID
    if options.thresholds:
        raise DlskipError(
            "these controllers are conditioned on the price of a layer, which is what is calibrated",
            where="--thresholds", mend="--prices, or neither",
        )  # fmt: skip
    low, high = prices
    if outside := [price for price in options.prices or [] if not low <= price <= high]:
        raise DlskipError(
            f"{outside[0]} lies outside the range trained for", where="--prices", mend=f"{low:g} to {high:g}"
        )
    return "price", options.prices or [low * (high / low) ** (i / 12) for i in range(13)]
