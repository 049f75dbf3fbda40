"""Trials: the stages' own code in a scratch folder, run for a few steps, for what a whole run of it would cost.

Each trial is a process of its own, whose memory tells. Training starts from untrained weights: these take as long.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import torch

from dlskip import provenance
from dlskip.config import Params
from dlskip.data.batches import encode
from dlskip.data.io import DATA, Example, read_split
from dlskip.data.prepare import prepare
from dlskip.data.tasks import INSTRUCTIONS
from dlskip.evaluation.deployed import deploy
from dlskip.evaluation.speed import mixed, time_policies
from dlskip.methods import base
from dlskip.methods.baselines import of_file
from dlskip.methods.layer_sets import block
from dlskip.methods.settings import FULL, PER_SAMPLE, PlannedSetting
from dlskip.models import artifact, backbone
from dlskip.skip import FullDepth, Policy, Threshold
from dlskip.steps import mixer, pretrain, reinforce, supervised
from dlskip.training.loop import total_steps
from dlskip.workflow.estimate import Trial

STEPS = 2  # of training, of which the faster one counts: the first warms up
TOKENS = 2  # decoded after a prompt
SOME = 64  # rows whose tokens are counted, for their mean
SEED = 0
IMPORTED = psutil.Process().cpu_times().user  # seconds of this process until now, all imports; its forks know them
STAGES: dict[str, tuple[Callable[[Params, str, int], None], str]] = {  # that train: their code and their artifact
    "finetune": (supervised.finetune, "vanilla"),
    "adapter_init": (supervised.adapter_init, "adapter_init"),
    "skip_pretrain": (pretrain.skip_pretrain, "skip_pretrain"),
    "rl": (reinforce.rl, "rl"),
    "mixer": (mixer.mixer, "ours"),
}


def run(kind: str, item: str, name: str, params: Params, shared: Path, cores: Sequence[int]) -> Trial:
    """Tries one thing, in a process of its own.

    Args:
        kind: A stage that trains, or one of ``OTHERS``.
        item: The method, and for a baseline that trains, after it the share.
        name: The backbone.
        params: All parameters.
        shared: The scratch folder: models, prepared rows and untrained artifacts are looked for and made there.
        cores: Those to use.
    """
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(min(torch.get_num_threads(), len(cores)))
    with (shared / "log").open("a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.chdir(shared)
    began = time.perf_counter()
    made = OTHERS[kind](params, name, item) if kind in OTHERS else _train(kind, item, params, name)
    seconds = made.seconds or time.perf_counter() - began
    return replace(made, seconds=seconds, memory=provenance.peak_memory_mb(artifact.device_of(params)))


def _train(kind: str, item: str, params: Params, name: str) -> Trial:
    """A stage that trains, for ``STEPS`` steps."""
    began, (method, _, share) = time.perf_counter(), item.partition("-")
    section = getattr(params.baselines, method) if share else getattr(params, kind)
    short = section.train.model_copy(update={"steps": STEPS, "epochs": None, "log_every": 1})
    changed = section.model_copy(update={"train": short})
    made = method if share else STAGES[kind][1]
    tasks = [INSTRUCTIONS] if kind == "adapter_init" else [*params.prepare.nlu, *params.prepare.mt]
    rows = [(task, line) for task in tasks for line in (DATA / task / "train.jsonl").open(encoding="utf-8")]
    _go_apart(f"{kind}{item}-{name}", made, tasks, _drawn(rows, short.batch))
    if share:
        params = params.model_copy(update={"baselines": params.baselines.model_copy(update={method: changed})})
        of_file(method).train(params, name, SEED, float(share))
    else:
        # Measurements on held-out rows are few in a whole run, and would be most of a trial.
        few = params.rl.model_copy(update={"eval_examples": 1} | ({"train": short} if kind == "rl" else {}))
        STAGES[kind][0](params.model_copy(update={kind: changed, "rl": few}), name, SEED)
    seconds, out = time.perf_counter() - began, Path(artifact.directory(made, name, SEED), share)
    curves = pd.read_csv(out / "curves.csv")
    pace = 1 / curves.loc[curves["metric"] == "tokens_per_second", "value"]
    tried = json.loads((out / "provenance.json").read_text())["training"]["tokens"]
    return Trial(
        seconds=max(0.0, seconds - tried * float(pace.mean())), disk=_size(out),
        step=float(pace.min()) * short.batch * _mean_tokens(rows, params, name, short.max_length),
        steps=total_steps(section.train, len(rows)),
    )  # fmt: skip


def _drawn(rows: list[tuple[str, str]], batch: int) -> list[tuple[str, str]]:
    """Of (task, line), those to train on for ``STEPS`` batches: one of the longest, which need the most memory."""
    mixed_up = random.Random(SEED).sample(rows, len(rows))
    longest = sorted(rows, key=lambda row: len(row[1]))[-batch:]
    each = {task: (task, line) for task, line in rows}  # at least
    return [*longest, *mixed_up[: (STEPS - 1) * batch], *each.values()]


def _go_apart(folder: str, made: str, tasks: Sequence[str], rows: list[tuple[str, str]]) -> None:
    """Enters a folder with links to all that is there, less an artifact to be made, and with few rows to train on."""
    shared, own = Path.cwd(), Path.cwd() / folder
    for path in [*shared.glob("models/*"), *shared.glob("artifacts/*/*"), *shared.glob("data/prepared/*/*")]:
        link = own / path.relative_to(shared)
        link.parent.mkdir(parents=True, exist_ok=True)
        if path.name != "train.jsonl" and path.parent.name != made:
            link.symlink_to(path.resolve())
    for task in tasks:
        lines = "".join(line for owner, line in rows if owner == task)
        (own / DATA / task / "train.jsonl").write_text(lines, encoding="utf-8")
    os.chdir(own)


def _mean_tokens(rows: list[tuple[str, str]], params: Params, name: str, longest: int) -> float:
    """Input tokens of a row on average."""
    tokenizer = backbone.load_tokenizer(name, params.backbones[name])
    some = [Example(**json.loads(line)) for _, line in random.Random(SEED).sample(rows, min(SOME, len(rows)))]
    lengths = [len(e.prompt) + len(e.target) - 1 for e in encode(some, tokenizer, longest)]
    return sum(lengths) / len(lengths)


def _start(params: Params, name: str, _: str) -> Trial:
    """Untrained weights, adapters and controllers, under the names that training starts from."""
    model, _tokenizer = artifact.build_model(params, name, weights=None)
    first, *others = (artifact.directory(made, name, SEED) for _, made in STAGES.values())
    artifact.save(model, first)
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.symlink_to(first.resolve())
    return Trial()


def _backbone(params: Params, name: str, _: str) -> Trial:
    backbone.materialise(name, params.backbones[name], backbone.MODELS / name)
    return Trial(disk=_size(backbone.MODELS / name))


def _prepare(params: Params, name: str, _: str) -> Trial:
    prepare(params.prepare, DATA, {name: backbone.load_tokenizer(name, params.backbones[name])})
    return Trial(disk=_size(DATA))


def _plan(params: Params, name: str, method: str) -> Trial:
    """Which layers a method drops: all that its stage does."""
    base.make_plan(of_file(method), params, name, SEED)
    return Trial(disk=_size(artifact.directory(method, name, SEED)))


def _passes(params: Params, name: str, which: str) -> Trial:
    """Passes of batches: at full depth, under our controllers, and with the most layers cut that any setting cuts."""
    began, config = time.perf_counter(), params.evaluate
    planned = PlannedSetting(setting=FULL, weights=str(artifact.directory("ours", name, SEED)), adapters=True)
    deployed = deploy(params, name, planned)
    seconds, layers, pad = time.perf_counter() - began, deployed.skipper.num_layers, deployed.tokenizer.pad_token_id
    cut = base.dropping(block(max(config.shares), layers, "top"), layers)
    policies: dict[str, Policy] = {"full": FullDepth(), "ours": Threshold(1.0), "cut": cut}
    sizes = {config.per_sample_batch, *(config.batches if which == "evaluate" else params.speed.batches)} - {PER_SAMPLE}
    passes, work = {}, {}
    for kind, tasks in (("nlu", params.prepare.nlu), ("mt", params.prepare.mt)):
        reported = [encode(read_split(DATA, task, config.split), deployed.tokenizer, 2**20) for task in tasks]
        chosen_on = [encode(read_split(DATA, task, "validation"), deployed.tokenizer, 2**20) for task in tasks]
        chosen_on = [rows[: len(most)] for rows, most in zip(chosen_on, reported, strict=True)]
        for size in map(int, sizes if tasks else ()):
            timed = time_policies(
                deployed.model, deployed.skipper, list(policies.values()),
                mixed([[e.prompt for e in rows] for rows in reported], size, 1), tokens=TOKENS, repeats=1, pad=pad,
            )  # fmt: skip
            for policy, one in zip(policies, timed, strict=True):
                passes[f"{kind} {size} {policy}"] = one.prefill_ms / 1e3, one.decode_ms / 1e3
            for split, several in (("validation", chosen_on), (config.split, reported)):
                answers = [[len(e.target) - (kind == "nlu") for e in rows] for rows in several]
                work[f"{kind} {size} {split}"] = _work(answers, size, config.max_new_tokens)
    return Trial(seconds=seconds, passes=passes, work=work)


def _work(answers: list[list[int]], size: int, longest: int) -> tuple[int, int]:
    """Of answers' lengths by task: how many batches, and how many token steps after their prompts' passes."""
    batches = [some[i : i + size] for some in answers for i in range(0, len(some), size)]
    return len(batches), sum(min(max(batch), longest) - 1 for batch in batches)


OTHERS = {"backbone": _backbone, "prepare": _prepare, "start": _start, "plan": _plan, "passes": _passes}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
