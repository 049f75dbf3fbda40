"""How far a run is: what its stages have said, a bar over all of them, and how long they still take."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from dlskip.workflow.plan import Plan

PERCENT = re.compile(r"(\d+)%\|")  # of a stage's own bar


def log_of(name: str) -> Path:
    """What a stage says is written there."""
    return Path(".jobs", re.sub(r"[^\w.@=-]", "_", name) + ".log")


def said(name: str) -> str:
    """What a stage has said."""
    text = log_of(name).read_text(encoding="utf-8", errors="replace") if log_of(name).is_file() else ""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


class Progress:
    """The bar over a whole run, in planned seconds, or in stages if there is no plan.

    Args:
        stages: How many there are.
        plan: What they take. Seconds left are corrected by what finished stages really took.
    """

    def __init__(self, stages: int, plan: Plan | None = None) -> None:
        self.plan = plan
        self.due = 0.0
        self.planned = self.taken = 60.0  # seconds; not nothing, so that the first short stage does not say too much
        total = stages if plan is None else sum(plan.seconds.values())
        form = None if plan is None else "{l_bar}{bar}| {elapsed}{postfix}"
        self.bar = tqdm(total=total, desc="all stages", disable=None, leave=False, bar_format=form)

    def ended(self, name: str, seconds: float) -> None:
        """A stage has ended well after so long."""
        if self.plan is not None and "Running stage" in said(name):  # and not: nothing has changed
            self.planned += self.plan.costs[name].seconds
            self.taken += seconds

    def show(self, done: Sequence[str], running: Mapping[str, float]) -> None:
        """Draws the bar, once a second.

        Args:
            done: The stages that are done or up to date, each after what it needs.
            running: Those that run, and for how many seconds they have.
        """
        if self.bar.disable or time.monotonic() < self.due:
            return
        self.due = time.monotonic() + 1
        shown, worked = [], float(len(done))
        if self.plan is not None:
            worked, left = self.forecast(self.plan, done, running)
            shown.append(f"{tqdm.format_interval(left)} left")
        for name in running:
            percent = PERCENT.findall(said(name)[-400:])
            shown.append(f"{name} {percent[-1]} %" if percent else name)
        self.bar.set_postfix_str(", ".join(shown), refresh=False)
        self.bar.update(worked - self.bar.n)

    def forecast(self, plan: Plan, done: Sequence[str], running: Mapping[str, float]) -> tuple[float, float]:
        """How many of the planned seconds have been worked off, and how many are left on the clock."""
        pace, planned = self.taken / self.planned, plan.seconds
        left = {name: pace * seconds for name, seconds in planned.items()}
        left |= {name: max(left[name] - seconds, 0.05 * left[name]) for name, seconds in running.items()}
        worked = sum(planned[name] for name in done) + sum(planned[name] - left[name] / pace for name in running)
        return worked, plan.simulate(left, done)[0]
