"""What the report says is better, worse or not distinguishable, each with its interval and the runs it rests on."""

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
from dlskip.report.compare import NO_RANGE
from dlskip.report.matched import common, curves, rivals
from dlskip.report.stats import Condition, Drawn, Estimate, difference, estimate, paired_bleu
from dlskip.report.table import NOT_REACHED, NOT_RUN, Table
from dlskip.report.view import LONG, VANILLA, TaskGroup, View

LEVEL = 0.05
SAME = "not distinguishable"
_CHOSEN = (
    "Ours' threshold was chosen on the test rows, which favours ours a little where a claim speaks of it; areas "
    "under the curve take every threshold. "
)


@dataclass(frozen=True)
class Claim:
    """Ours against another method on some tasks."""

    backbone: str
    method: str  # what ours is compared with
    group: TaskGroup  # the tasks that it is about
    how: str  # what makes the comparison fair: same setting, same share, area
    ours: float
    other: float
    difference: Estimate  # ours less the other
    n: int  # test examples, over all tasks
    seeds: list[int]  # those that both have
    runs: list[str]  # evaluations and trainings that it rests on
    why: str = NOT_RUN  # why there is no value, if there is none
    p: dict[int, float] = field(default_factory=dict)  # by seed, of sacreBLEU's paired test where both are systems
    signature: str = ""  # that test's

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
        name, where = title(self.method), f"{self.group.label[:1].upper()}{self.group.label[1:]}, {self.how}"
        if math.isnan(self.difference.value):
            return f"{where}: ours against {name}: {self.verdict}."
        verdict = {"better": "above", "worse": "below"}.get(self.verdict, f"{self.verdict} from")
        text = f"{where}: ours ({self.ours:.1f} {self.group.score}) is {verdict} {name} ({self.other:.1f}), "
        return text + self.difference.text() + (f", p = {p_text(self.p)}." if self.p else ".")


def p_text(values: Mapping[int, float]) -> str | None:
    """The p-values of all seeds."""
    return ", ".join(f"{p:.3f}" for _, p in sorted(values.items())) or None


def find(views: Sequence[View]) -> list[Claim]:
    """Every claim of the report, for every backbone."""
    return [claim for view in views for claim in [*_averages(view), *_translations(view)]]


def _averages(view: View) -> Iterator[Claim]:
    """On the averages: vanilla and the control at the headline setting, then the baselines at ours' share, then AUC."""
    h = view.headline
    for group in view.groups:
        tasks = group.tasks
        full, share = view.bootstrap.drawn(h.ours, tasks), view.share(h.ours, tasks)
        skipped = "" if math.isnan(share) else f" ({share:.0f} % skipped)"
        at = f"at {h.ours.setting.label()}{skipped}"
        nothing = f"{at} against nothing skipped"
        for run, how in ((VANILLA, nothing), (LONG, nothing), (h.random, f"{at}, same measured share")):
            if run.method in view.methods:
                yield _claim(view, run.method, group, how, full, view.bootstrap.drawn(run, tasks))
        for rival in sorted(rivals(view, tasks), key=lambda r: view.methods.index(r.method)):
            why = NOT_REACHED if full and rival.ran else NOT_RUN
            how = f"{at}, the other between its settings at that share"
            yield _claim(view, rival.method, group, how, full, rival.there, why)
        found = curves(view, tasks)
        over = common(found.values())
        for method in (m for m in found if m != "ours" and "ours" in found):
            ours, its = found["ours"], found[method]
            ran, how = ours.ran and its.ran, "area under the curve"
            if not ran or over is None:
                yield _claim(view, method, group, how, {}, {}, NO_RANGE if ran else NOT_RUN)
                continue
            how += f" from {over[0]:.1f} to {over[1]:.1f} % skipped"
            yield _claim(view, method, group, how, ours.area(*over), its.area(*over))


def _translations(view: View) -> Iterator[Claim]:
    """Each translation task, systems as they ran, with sacreBLEU's test; baselines at the setting nearest to ours."""
    h = view.headline
    for group in (g for g in view.groups_and_tasks if g.tasks[0] in view.mt and len(g.tasks) == 1):
        task, share = group.tasks[0], view.share(h.ours, group.tasks)
        runs = {run.method: run for run in (VANILLA, LONG, h.random) if run.method in view.methods}
        if not math.isnan(share):
            runs |= {m: run for m in view.baselines if (run := view.nearest(m, share, [task]))}
        values, signature = _tests(view, task, runs)
        for method, run in runs.items():
            its = view.share(run, [task])
            how = "as it ran" if math.isnan(share + its) else f"{share:.0f} % skipped against {its:.0f} %"
            ours, other = (view.bootstrap.drawn(r, [task]) for r in (h.ours, run))
            p = {seed: values[seed][method] for seed in values if method in values[seed]}
            yield _claim(view, method, group, how, ours, other, p=p, signature=signature if p else "")


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
    view: View, method: str, group: TaskGroup, how: str, ours: Drawn, other: Drawn, why: str = NOT_RUN, *,
    p: dict[int, float] | None = None, signature: str = "",
) -> Claim:  # fmt: skip
    seeds = sorted(set(ours) & set(other))
    mine, its = ({s: drawn[s] for s in seeds} for drawn in (ours, other))
    return Claim(
        view.backbone, method, group, how, estimate(mine).value, estimate(its).value, difference(mine, its),
        sum(view.n.get(t, 0) for t in group.tasks), seeds,
        _runs(view, method, seeds or view.found.params.grid.seeds), why, p or {}, signature,
    )  # fmt: skip


def _runs(view: View, method: str, seeds: Sequence[int]) -> list[str]:
    """Evaluations of both, and of vanilla where the other's curve begins, then what was trained for them."""
    params, found = view.found.params, dict[str, None]()
    methods = dict.fromkeys(["ours", "ours" if method == "random" else method])
    methods |= dict.fromkeys(["vanilla"] if method in view.baselines else [])
    for pair in (f"{view.backbone}-{seed}" for seed in seeds):
        found |= dict.fromkeys(path for m in methods for path in evaluated(params, m, pair))
        found |= dict.fromkeys(path for m in methods for path in trained(params, m, pair))
    return [path for path in found if path in view.found.provenance]


def table(views: Sequence[View], said: Sequence[Claim]) -> Table:
    """The claims as a table."""
    signatures = dict.fromkeys(claim.signature for claim in said if claim.signature)
    rows: list[list[Any]] = [
        [c.backbone, title(c.method), c.group.label, c.how, c.group.score,
         *(None if math.isnan(x) else x for x in (c.ours, c.other)),
         c.why if math.isnan(c.difference.value) else c.difference, p_text(c.p), c.verdict, c.n,
         ", ".join(map(str, c.seeds)) or None, ", ".join(x for x in c.runs if x.startswith("evaluations"))]
        for c in said
    ]  # fmt: skip
    return Table(
        "claims", "What is claimed: ours against every other method",
        "Verdicts are about ours. Differences in points; on single translation tasks sacreBLEU's paired bootstrap test "
        f"of the outputs as well, p for each seed ({'; '.join(signatures) or NOT_RUN}), and both must agree: an "
        f"interval that covers zero, or a p of {LEVEL} or more, reads “{SAME}”. The file reports/claims.json names for "
        "each claim every run that it rests on, with command, parameters, data hash and commit. "
        + (_CHOSEN if any(view.headline.chosen_on == "test" for view in views) else "")
        + notes.intervals(views),
        ["backbone", "against", "tasks", "compared", "metric", "ours", "it", "ours − it", "p (sacreBLEU)", "ours is",
         "n", "seeds", "evaluations"],
        rows,
    )  # fmt: skip


def document(found: Collected, said: Sequence[Claim]) -> dict[str, Any]:
    """``claims.json``: every claim, and where the runs that it names come from."""
    claims = [
        {
            "backbone": c.backbone, "against": c.method, "group": c.group.name, "tasks": c.group.label,
            "compared": c.how, "metric": c.group.score, "ours": _number(c.ours), "other": _number(c.other),
            "difference": {name: _number(getattr(c.difference, name)) for name in ("value", "low", "high")},
            "p": {str(seed): round(p, 6) for seed, p in c.p.items()}, "signature": c.signature, "verdict": c.verdict,
            "sentence": c.sentence, "n": c.n, "seeds": c.seeds, "runs": c.runs,
        }
        for c in said
    ]  # fmt: skip
    named = dict.fromkeys(path for c in said for path in c.runs)
    keys = ("command", "config", "data_sha256", "seed", "git_commit", "git_dirty", "device", "created")
    runs = {path: {key: found.provenance[path].get(key) for key in keys} for path in named}
    return {"claims": claims, "runs": runs}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
