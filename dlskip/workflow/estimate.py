"""What each stage takes, reckoned from trials of a few steps (``dlskip.workflow.trial``).

What trained controllers skip is not known before they are trained: they are reckoned as if they skipped nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dlskip.config import Params, varied
from dlskip.methods.names import UNSKIPPED
from dlskip.methods.settings import PER_SAMPLE, BatchRule, batch_rules

Key = tuple[str, str, str]  # a trial: its kind, of what (a method, a baseline and its share), and the backbone
Policy = str | float  # `full`, `ours`, or the share of layers that is cut
TWO_STUDENTS = 7 / 4  # of a step's time, where a teacher has two students: its pass, and theirs with their gradients
CHAIN = ("finetune", "adapter_init", "skip_pretrain", "rl", "mixer")  # what ours has gone through
NOT_TRIED = {"results": 10.0, "figures": 60.0}  # seconds of what reads all results, of which there are none yet


@dataclass(frozen=True)
class Trial:
    """What was measured.

    Args:
        seconds: Of all of it, less the training steps.
        memory: MiB at the peak.
        disk: Bytes of what it made.
        step: Seconds of a training step of mean length.
        steps: As many as the parameters ask for.
        passes: Seconds of a batch's prompt pass and of a token step, by ``<kind of task> <rows> <policy>``.
        work: Batches and token steps of all rows, by ``<kind of task> <rows> <split>``.
    """

    seconds: float = 0.0
    memory: float = 0.0
    disk: int = 0
    step: float = 0.0
    steps: int = 0
    passes: dict[str, tuple[float, float]] = field(default_factory=dict)
    work: dict[str, tuple[int, int]] = field(default_factory=dict)

    def pass_of(self, kind: str, rows: int, policy: Policy, most: float) -> tuple[float, float]:
        """Seconds of a prompt pass and of a token step; between none and ``most`` of the layers cut it is linear."""
        if isinstance(policy, str):
            return self.passes[f"{kind} {rows} {policy}"]
        full, cut = self.passes[f"{kind} {rows} full"], self.passes[f"{kind} {rows} cut"]
        return full[0] + (cut[0] - full[0]) * policy / most, full[1] + (cut[1] - full[1]) * policy / most


@dataclass(frozen=True)
class Cost:
    """Of a stage: seconds, MiB at the peak, and bytes that it leaves."""

    seconds: float = 0.0
    memory: float = 0.0
    disk: int = 0


class Estimator:
    """Costs of stages.

    Args:
        params: All parameters.
    """

    def __init__(self, params: Params) -> None:
        self.params, self.shares = params, params.evaluate.shares

    def split(self, name: str) -> tuple[str, str, str]:
        """A stage's name as its kind, what it is of, and its backbone: the grid's first, if it has none of its own."""
        stage, _, rest = name.partition("@")
        for backbone in self.params.grid.backbones:
            for end in (backbone, *(f"{backbone}-{seed}" for seed in self.params.grid.seeds)):
                if rest == end or rest.endswith(f"-{end}"):
                    return stage, rest.removesuffix(end).rstrip("-"), backbone
        return stage, rest, self.params.grid.backbones[0]

    def trials(self, name: str) -> list[Key]:
        """What has to be tried for a stage."""
        stage, item, backbone = self.split(name)
        method = item.partition("-")[0]
        match stage.split("_"):
            case ["results" | "figures"]:
                return []
            case ["ablations", *step]:
                trained = "_".join(step) in self.params.ablations.variants[item].stages
                return [("_".join(step), "", backbone)] if trained else []
            case ["train", "baselines"]:
                return [(stage, f"{method}-{share}", backbone) for share in (min(self.shares), max(self.shares))]
            case ["train", "once"] if method == "vanilla_long":
                return [(of_ours, "", backbone) for of_ours in CHAIN]
            case ["train", "once"]:
                return [("train_baselines", f"{method}-{min(self.shares)}", backbone)]
            case ["evaluate" | "speed" as kind, *_]:
                return [("passes", kind, backbone)]
            case ["baselines"]:
                return [("plan", method, backbone)]
            case ["borrowed"]:
                return [("plan", item.rpartition("_on_")[0], backbone)]
        return [(stage, "", backbone)]

    def cost(self, name: str, found: Mapping[Key, Trial], overhead: float) -> Cost:
        """What a stage takes.

        Args:
            name: The stage.
            found: The trials.
            overhead: Seconds until a stage's own code begins.
        """
        stage, item, _ = self.split(name)
        tried = [found[key] for key in self.trials(name)]
        if not tried:
            return Cost(overhead + NOT_TRIED.get(stage, 0.0))
        if stage.startswith("evaluate"):
            method, _, kind = item.rpartition("-")
            seconds = self._evaluation(method, kind, tried[0])
        elif stage.startswith("speed"):
            seconds = self._speed(item, tried[0])
        else:
            steps = self._steps(stage, item, tried)
            seconds, *more = (one.seconds + steps * one.step for one in tried)
            shares = stage == "train_baselines" and min(self.shares) < max(self.shares)
            for at_most in more if shares else ():  # tried for the least and the most layers
                part = float(item.rpartition("-")[2]) - min(self.shares)
                seconds += (at_most - seconds) * part / (max(self.shares) - min(self.shares))
        return Cost(overhead + seconds, max(one.memory for one in tried), max(one.disk for one in tried))

    def _steps(self, stage: str, item: str, tried: Sequence[Trial]) -> float:
        """Steps like those of the first trial that a stage's training takes as long as."""
        steps = tried[0].steps
        if stage.startswith("ablations_"):
            variant = varied(self.params, self.params.ablations.variants[item])
            return float(getattr(variant, stage.removeprefix("ablations_")).train.steps or steps)
        if stage == "train_once" and item == "vanilla_long":  # for all stages but the fine-tuning that it goes on with
            rows = (one.steps * getattr(self.params, of).train.batch for of, one in zip(CHAIN, tried, strict=True))
            return float(sum(list(rows)[1:])) / self.params.finetune.train.batch
        return steps * TWO_STUDENTS if stage == "train_once" else steps

    def _learned(self, method: str) -> bool:
        return method == "ours" or method in self.params.grid.ablations

    def _policies(self, method: str) -> list[Policy]:
        """The settings that a method is evaluated at."""
        if method in UNSKIPPED:
            return ["full"]
        if not self._learned(method):
            return [*(["full"] if method in self.params.grid.borrowed else []), *self.shares]
        variant = self.params.ablations.variants.get(method)
        priced = variant is not None and varied(self.params, variant).model.prices is not None
        config = self.params.evaluate
        return ["full", *(["ours"] * len(config.prices if priced else config.thresholds))]

    def _models(self, method: str) -> int:
        """How many are loaded, one after the other."""
        return len(self.shares) if method in self.params.grid.trained else 1

    def _evaluation(self, method: str, kind: str, tried: Trial) -> float:
        config, ours = self.params.evaluate, method == "ours"
        rules: list[BatchRule] = batch_rules(self.params) if ours else [PER_SAMPLE]
        rules = [*rules, *([PER_SAMPLE] if ours and config.random_control else [])]
        seconds = self._models(method) * tried.seconds
        for policy in self._policies(method):
            runs = [(config.split, config.per_sample_batch if r == PER_SAMPLE else int(r)) for r in rules]
            runs = [(config.split, config.per_sample_batch)] if policy == "full" else runs
            runs += [("validation", config.per_sample_batch)] if self._learned(method) else []
            for split, rows in runs:
                batches, steps = tried.work.get(f"{kind} {rows} {split}", (0, 0))  # there may be no tasks of a kind
                if batches:
                    prompt, step = tried.pass_of(kind, rows, policy, max(self.shares))
                    seconds += batches * prompt + steps * step
        return seconds * (config.beams if kind == "mt" else 1)  # each prompt is searched alone, by so many rows

    def _speed(self, method: str, tried: Trial) -> float:
        config, prepared = self.params.speed, self.params.prepare
        answers, texts = (
            ("nlu", "mt") if prepared.nlu and prepared.mt else ("nlu", "nlu") if prepared.nlu else ("mt", "mt")
        )
        skipping = [policy for policy in self._policies(method) if policy != "full"]
        turns: list[Policy] = ["full", *config.repeats * [*skipping, *["full"] * self._models(method)]]
        seconds = self._models(method) * tried.seconds
        for rows in (*config.batches, *([self.params.evaluate.per_sample_batch] if method == "ours" else [])):
            batches = max(1, config.rows // rows) if self._learned(method) else 1
            for policy in turns:
                prompt, _ = tried.pass_of(answers, rows, policy, max(self.shares))
                other, step = tried.pass_of(texts, rows, policy, max(self.shares))
                seconds += batches * (prompt + other + config.tokens * step)
        return seconds
