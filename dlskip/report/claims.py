"""What the report says is better, worse or not distinguishable, each with its interval and the cells it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlskip.data.tasks import TASKS
from dlskip.methods.names import title
from dlskip.report import notes
from dlskip.report.budget import trained
from dlskip.report.collect import Collected, evaluated
from dlskip.report.compare import METRIC, means, range_of
from dlskip.report.matched import curve, rivals
from dlskip.report.stats import Condition, Drawn, Estimate, estimate, less, paired_bleu
from dlskip.report.table import NOT_REACHED, NOT_RUN, Table, signed
from dlskip.report.view import VANILLA, View, short

LEVEL = 0.05
SAME = "not distinguishable"
_CHOSEN = (
    "Ours' threshold was chosen on the test rows, which favours ours a little where a claim speaks of it; areas "
    "under the curve take every threshold. "
)
NOTHING = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Claim:
    """Ours against another method on some tasks.

    Args:
        backbone: Backbone's name.
        method: What ours is compared with.
        kind: ``understanding`` or ``translation``.
        tasks: What it is about, for people.
        metric: ``macro F1`` or ``BLEU``.
        how: What makes the comparison fair: same setting, same share, area.
        ours: Ours' value.
        other: The other's.
        difference: Ours less it.
        n: Test examples, over all tasks.
        seeds: The seeds that both have.
        cells: Evaluations and training cells that it rests on.
        why: Why there is no value, if there is none.
        p: By seed, the p-value of sacreBLEU's paired test, where both are systems (not read between settings).
        signature: That test's signature.
    """

    backbone: str
    method: str
    kind: str
    tasks: str
    metric: str
    how: str
    ours: float
    other: float
    difference: Estimate
    n: int
    seeds: list[int]
    cells: list[str]
    why: str = NOT_RUN
    p: dict[int, float] = field(default_factory=dict)
    signature: str = ""

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, not distinguishable, or why it is neither.

        Of translations, every seed's p-value must be small too.
        """
        if math.isnan(self.difference.value):
            return self.why
        if self.difference.covers_zero or any(p >= LEVEL for p in self.p.values()):
            return SAME
        return "better" if self.difference.value > 0 else "worse"

    @property
    def sentence(self) -> str:
        """The claim in words."""
        name, where = title(self.method), f"{self.tasks[:1].upper()}{self.tasks[1:]}, {self.how}"
        if math.isnan(self.difference.value):
            return f"{where}: ours against {name}: {self.verdict}."
        d = self.difference
        verdict = {"better": "above", "worse": "below"}.get(self.verdict, f"{self.verdict} from")
        text = f"{where}: ours ({self.ours:.1f} {self.metric}) is {verdict} {name} ({self.other:.1f}), "
        text += f"{signed(d.value)} [{signed(d.low)}, {signed(d.high)}]"
        return text + (f", p = {p_text(self.p)}." if self.p else ".")


def p_text(values: Mapping[int, float]) -> str | None:
    """The p-values of all seeds."""
    return ", ".join(f"{p:.3f}" for _, p in sorted(values.items())) or None


def find(views: Sequence[View]) -> list[Claim]:
    """Every claim of the report, for every backbone."""
    return [claim for view in views for claim in [*_averages(view), *_translations(view)]]


def _averages(view: View) -> Iterator[Claim]:
    """On the averages: vanilla and the control at the headline setting, then the baselines at ours' share, then AUC."""
    h = view.headline
    for name, tasks in means(view).items():
        full = view.bootstrap.drawn(h.ours, tasks)
        share = view.one(h.ours, "skip_ratio", tasks)
        skipped = "" if math.isnan(share) else f" ({share:.0f} % skipped)"
        at = f"at {h.ours.setting.label()}{skipped}"
        for run, how in ((VANILLA, f"{at} against nothing skipped"), (h.random, f"{at}, same measured share")):
            if run.method in view.methods:
                yield _claim(view, run.method, name, tasks, how, full, view.bootstrap.drawn(run, tasks))
        for rival in sorted(rivals(view, tasks), key=lambda r: view.methods.index(r.method)):
            why = NOT_REACHED if full and rival.ran else NOT_RUN
            how = f"{at}, the other between its settings at that share"
            yield _claim(view, rival.method, name, tasks, how, full, rival.there, why)
        curves = {m: curve(view, m, tasks) for m in view.compared if m != "vanilla"}
        over = range_of(curves)
        for method in (m for m in curves if m != "ours" and "ours" in curves):
            ran = bool(curves[method].shares and curves["ours"].shares)
            how, ours, its = "area under the curve", Drawn(), Drawn()
            if ran and not isinstance(over, str):
                how += f" from {over[0]:.1f} to {over[1]:.1f} % skipped"
                ours, its = curves["ours"].area(*over), curves[method].area(*over)
            yield _claim(view, method, name, tasks, how, ours, its, str(over) if ran else NOT_RUN)


def _translations(view: View) -> Iterator[Claim]:
    """Each translation task, systems as they ran, with sacreBLEU's test; baselines at the setting nearest to ours."""
    h = view.headline
    for task in view.mt:
        share = view.one(h.ours, "skip_ratio", [task])
        runs = {m: run for m, run in (("vanilla", VANILLA), ("random", h.random)) if m in view.methods}
        if not math.isnan(share):
            runs |= {m: run for m in view.baselines if (run := view.nearest(m, share, [task]))}
        values, signature = _tests(view, task, runs)
        for method, run in runs.items():
            its = view.one(run, "skip_ratio", [task])
            how = "as it ran" if math.isnan(share + its) else f"{share:.0f} % skipped against {its:.0f} %"
            ours, other = (view.bootstrap.drawn(r, [task]) for r in (h.ours, run))
            p = {seed: values[seed][method] for seed in values if method in values[seed]}
            yield _claim(view, method, short(task), [task], how, ours, other, p=p, signature=signature if p else "")


def _tests(view: View, task: str, runs: Mapping[str, Condition]) -> tuple[dict[int, dict[str, float]], str]:
    """p-values of ours against each run, by seed and method, and the test's signature."""
    values: dict[int, dict[str, float]] = {}
    signature, target = "", TASKS[task].languages[1]
    for seed, (said, gold) in view.bootstrap.texts(view.headline.ours, task).items():
        texts = {method: view.bootstrap.texts(run, task) for method, run in runs.items()}
        others = {method: found[seed][0] for method, found in texts.items() if seed in found}
        if others:
            values[seed], signature = paired_bleu({"ours": said, **others}, gold, target)
    return values, signature


def _claim(
    view: View, method: str, name: str, tasks: Sequence[str], how: str, ours: Mapping[int, Any],
    other: Mapping[int, Any], why: str = NOT_RUN, *, p: dict[int, float] | None = None, signature: str = "",
) -> Claim:  # fmt: skip
    seeds = sorted(set(ours) & set(other))
    mine, its = ({s: drawn[s] for s in seeds} for drawn in (ours, other))
    return Claim(
        view.backbone, method, "translation" if tasks[0] in view.mt else "understanding", name,
        METRIC[view.quality(tasks[0])], how, estimate(mine).value, estimate(its).value, estimate(less(mine, its)),
        sum(view.n.get(t, 0) for t in tasks), seeds, _cells(view, method, seeds or view.found.params.grid.seeds), why,
        p or {}, signature,
    )  # fmt: skip


def _cells(view: View, method: str, seeds: Sequence[int]) -> list[str]:
    """Evaluations of both, and of vanilla where the other's curve begins, then what was trained for them."""
    params, found = view.found.params, dict[str, None]()
    ours_too = dict.fromkeys(["ours", "ours" if method == "random" else method])
    for seed in seeds:
        cell = f"{view.backbone}-{seed}"
        methods = [*ours_too, *(["vanilla"] if method in view.baselines else [])]
        found |= dict.fromkeys(where for m in methods for where in evaluated(params, m, cell))
        found |= dict.fromkeys(where for m in methods for where in trained(params, m, cell))
    return [cell for cell in found if cell in view.found.provenance]


def table(views: Sequence[View], said: Sequence[Claim]) -> Table:
    """The claims as a table."""
    signatures = dict.fromkeys(claim.signature for claim in said if claim.signature)
    rows: list[list[Any]] = [
        [c.backbone, title(c.method), c.tasks, c.how, c.metric,
         *(None if math.isnan(x) else x for x in (c.ours, c.other)),
         c.why if math.isnan(c.difference.value) else c.difference, p_text(c.p), c.verdict, c.n,
         ", ".join(map(str, c.seeds)) or None, ", ".join(x for x in c.cells if x.startswith("evaluations"))]
        for c in said
    ]  # fmt: skip
    return Table(
        "claims", "What is claimed: ours against every other method",
        "Verdicts are about ours. Differences in points; on single translation tasks sacreBLEU's paired bootstrap test "
        f"of the outputs as well, p for each seed ({'; '.join(signatures) or NOT_RUN}), and both must agree: an "
        f"interval that covers zero, or a p of {LEVEL} or more, reads “{SAME}”. The file reports/claims.json names for "
        "each claim every cell that it rests on, with command, parameters, data hash and commit. "
        + (_CHOSEN if any(view.headline.same_rows for view in views) else "")
        + notes.intervals(views) + notes.missing(views),
        ["backbone", "against", "tasks", "compared", "metric", "ours", "it", "ours − it", "p (sacreBLEU)", "ours is",
         "n", "seeds", "evaluations"],
        rows,
    )  # fmt: skip


def document(found: Collected, said: Sequence[Claim]) -> dict[str, Any]:
    """``claims.json``: every claim, and where the cells that it names come from."""
    claims = [
        {
            "backbone": c.backbone, "against": c.method, "kind": c.kind, "tasks": c.tasks, "compared": c.how,
            "metric": c.metric, "ours": _number(c.ours), "other": _number(c.other),
            "difference": dict(zip(("value", "low", "high"), map(_number, c.difference), strict=True)),
            "p": {str(seed): round(p, 6) for seed, p in c.p.items()}, "signature": c.signature, "verdict": c.verdict,
            "sentence": c.sentence, "n": c.n, "seeds": c.seeds, "cells": c.cells,
        }
        for c in said
    ]  # fmt: skip
    named = dict.fromkeys(cell for c in said for cell in c.cells)
    keys = ("command", "config", "data_sha256", "seed", "git_commit", "git_dirty", "device", "created")
    cells = {cell: {key: found.provenance[cell].get(key) for key in keys} for cell in named}
    return {"claims": claims, "cells": cells}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
