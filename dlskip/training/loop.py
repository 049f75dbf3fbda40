"""The one training loop that every stage shares.

A stage gives a ``Step``, a module whose forward turns (batch, step number) into a loss; the loop adds AdamW, warm-up
and decay, clipping, progress, curves and checkpoints. All randomness derives from (seed, step), so a killed run that
is started again ends with the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from dvclive import Live
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from dlskip import files, provenance
from dlskip.checks import check_finite
from dlskip.config import Train
from dlskip.data.batches import Batch, Batches, Encoded
from dlskip.errors import DlskipError
from dlskip.skip.attention import safe_attention
from dlskip.training import checkpoint

Metrics = dict[str, Tensor | float]


class Step(nn.Module):
    """What a stage trains. Subclasses hold the model and say what one optimizer step minimises."""

    def groups(self) -> list[dict[str, Any]]:
        """AdamW parameter groups: ``lr`` replaces the configured one, and with ``constant`` it does not decay."""
        raise NotImplementedError

    def forward(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Metrics]:
        """Returns the loss to minimise and what to log; ``progress`` runs from 0 to 1."""
        raise NotImplementedError

    def held_out(self, step: int) -> Metrics:
        """Measurements on held-out data, logged with the prefix ``val_``."""
        return {}

    def alarms(self, step: int, measured: dict[str, float]) -> list[dict[str, Any]]:
        """Collapse alarms raised by held-out measurements: dicts with ``step``, ``kind`` and ``message``."""
        return []


@dataclass(frozen=True)
class TrainingRun:
    """Where and how a ``Step`` is trained.

    Args:
        stage: Name for progress and logs.
        config: Length, learning rate and so on.
        examples: Training examples.
        pad: Padding token id.
        seed: Determines order and all draws.
        device: ``cpu`` or ``cuda``.
        resume: Directory of the resumable checkpoint.
        held_out_every: Steps between held-out measurements; 0 = never.
    """

    stage: str
    config: Train
    examples: Sequence[Encoded]
    pad: int
    seed: int
    device: str
    resume: Path
    held_out_every: int = 0


def total_steps(config: Train, examples: int) -> int:
    """Optimizer steps of a run: given, or epochs over the examples.

    Examples:
        >>> total_steps(Train(epochs=2, batch=16, lr=1e-4, max_length=128), examples=160)
        20
    """
    if config.steps is not None:
        return config.steps
    assert config.epochs is not None
    return max(1, round(config.epochs * (examples // config.batch)))


def learning_rate(config: Train, step: int, total: int) -> float:
    """Factor in [0, 1] on the peak learning rate at ``step`` (from 0): linear warm-up, then decay to 0.

    Examples:
        >>> config = Train(steps=8, batch=16, lr=1e-4, max_length=128, warmup=0.5, decay="linear")
        >>> [learning_rate(config, step, total=8) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warm = math.ceil(config.warmup * total)
    if step < warm:
        return (step + 1) / warm
    if config.decay == "constant":
        return 1.0
    progress = (step - warm) / max(1, total - warm)
    return 1 - progress if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed for all draws of one step in one process."""
    return (seed * 1_000_003 + step * 7919 + rank * 104_729 + 17) % 2**63


def _with_loraplus(group: dict[str, Any], module: nn.Module, ratio: float) -> list[dict[str, Any]]:
    """A parameter group, with LoRA's B in one of its own that learns faster: LoRA+, Hayou et al. 2024."""
    second = {id(p) for name, p in module.named_parameters() if "lora_B" in name} if ratio != 1 else set()
    slow, fast = ([p for p in group["params"] if (id(p) in second) == is_b] for is_b in (False, True))
    parts = ({"params": slow, "lr": group["lr"]}, {"params": fast, "lr": ratio * group["lr"]})
    return [group | part for part in parts if part["params"]]


def train(step_module: Step, run: TrainingRun, out: Path, *, on_step: Callable[[int], None] | None = None) -> bool:
    """Trains to the end, resuming if a checkpoint is found; writes ``curves.csv``, ``alarms.json`` and ``live/``.

    Under ``accelerate launch`` each process takes its share of every batch. Returns whether this is the process that
    writes the results.

    Args:
        step_module: What is trained, in place.
        run: How.
        out: Directory for curves and alarms; made here.
        on_step: Called after each finished step (tests use it to kill a run).

    Raises:
        DlskipError: The loss, the gradient or a weight is no longer finite, a checkpoint belongs to another model, or
            the disk is full.
    """
    config = run.config
    # A layer that every row of a process skips has no gradient there.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=run.device == "cpu", kwargs_handlers=[unused])
    batches = Batches(
        run.examples, run.pad, config.batch, run.seed, rank=accelerator.process_index, world=accelerator.num_processes,
        packing=config.packing,
    )  # fmt: skip
    total = total_steps(config, len(run.examples))
    steady = config.model_copy(update={"decay": "constant"})
    groups = [{"lr": config.lr, "weight_decay": config.weight_decay} | g for g in step_module.groups()]
    groups = [part for group in groups for part in _with_loraplus(group, step_module, config.loraplus_lr_ratio)]
    peaks = [float(g["lr"]) for g in groups]
    optimizer = torch.optim.AdamW(groups, fused=True)
    start, log = checkpoint.resume(run.resume, step_module, optimizer)
    module = accelerator.prepare(step_module) if accelerator.num_processes > 1 else step_module.to(accelerator.device)
    parameters = [p for g in groups for p in g["params"]]
    main = bool(accelerator.is_main_process)
    live_dir = run.resume.with_name(run.resume.name + ".live")
    alarms: list[dict[str, Any]] = [row["alarm"] for row in log if "alarm" in row]
    if start and main:
        tqdm.write(f"{run.stage}: going on from the checkpoint at step {start} of {total}")
    with _live(live_dir, log, main) as live:
        bar = tqdm(range(start, total), initial=start, total=total, desc=run.stage, disable=not main, mininterval=2.0)
        for step in bar:
            began = time.perf_counter()
            factor = learning_rate(config, step, total)
            constant = learning_rate(steady, step, total)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * (constant if group.get("constant") else factor)
            torch.manual_seed(step_seed(run.seed, step, accelerator.process_index))
            batch = batches.at(step).to(accelerator.device)
            module.train()
            with _attention(accelerator.device):  # backward too: gradient checkpointing computes layers again there
                loss, metrics = module(batch, step, step / total)
                _finite(loss, "loss", run.stage, step)
                accelerator.backward(loss)
            norm = nn.utils.clip_grad_norm_(parameters, config.clip)
            _finite(norm, "the gradient's norm", run.stage, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            row = {"loss": loss.detach(), "lr": factor * peaks[0], "grad_norm": norm, **metrics}
            row["tokens_per_second"] = int(batch.attention_mask.sum()) / (time.perf_counter() - began)
            if step % config.log_every == 0 or done == total:
                _record(log, live, step, row)
                bar.set_postfix({k: f"{float(v):.3g}" for k, v in list(row.items())[:1] + list(metrics.items())[:3]})
            if run.held_out_every and (step % run.held_out_every == 0 or done == total):
                module.eval()
                with torch.no_grad():
                    measured = {f"val_{k}": float(v) for k, v in step_module.held_out(step).items()}
                if measured:
                    _record(log, live, step, measured)
                for alarm in step_module.alarms(step, measured):
                    alarms.append(alarm)
                    log.append({"alarm": alarm})
                    bar.write(f"ALARM ({run.stage}, step {step}): {alarm['message']}")
            if main and done < total and done % config.checkpoint_every == 0:
                checkpoint.save(run.resume, step_module, optimizer, done, log)
            if on_step is not None:
                on_step(done)
    step_module.eval()
    check_finite(checkpoint.trainable_state(step_module), f"{run.stage}, last step", checkpoint.MEND_RATE)
    if main:
        provenance.unmark(out)
        rows = [{"step": r["step"], "metric": r["metric"], "value": r["value"]} for r in log if "metric" in r]
        pd.DataFrame(rows, columns=["step", "metric", "value"]).to_csv(out / "curves.csv", index=False)
        files.write_text(out / "alarms.json", json.dumps(alarms, indent=1) + "\n")
        with files.aside(out / "live") as new:
            shutil.copytree(live_dir / "plots", new)
        files.remove(live_dir)
    accelerator.wait_for_everyone()
    return main


def finish(run: TrainingRun) -> None:
    """Removes the run's checkpoint, once its results are safely written."""
    checkpoint.clear(run.resume)


def _finite(value: Tensor, what: str, stage: str, step: int) -> None:
    if not torch.isfinite(value):
        raise DlskipError(f"{what} is {value.item()} at step {step}", where=stage, mend=checkpoint.MEND_RATE)


def _record(log: list[dict[str, Any]], live: Live | None, step: int, row: Mapping[str, Tensor | float]) -> None:
    values = {name: float(value) for name, value in row.items()}
    log.extend({"step": step, "metric": name, "value": value} for name, value in values.items())
    _show(live, step, values)


def _show(live: Live | None, step: int, values: dict[str, float]) -> None:
    if live is not None:
        live.step = step
        for name, value in values.items():
            live.log_metric(name, value)


def _attention(device: torch.device) -> AbstractContextManager[Any]:
    """The attention masks and kernels that training uses.

    On a CPU the fused kernel's backward takes 2 to 4 times as long as plain matrix products, at 20 to 60 tokens.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else safe_attention(device)


class _live:  # noqa: N801 - a context manager used like a function
    """dvclive curves, rebuilt from the log on resumption so that no step stands twice."""

    def __init__(self, directory: Path, log: list[dict[str, Any]], main: bool) -> None:
        self.directory = directory
        self.log = log
        self.main = main

    def __enter__(self) -> Live | None:
        if not self.main:
            return None
        shutil.rmtree(self.directory, ignore_errors=True)
        self.live = Live(str(self.directory), dvcyaml=None, save_dvc_exp=False, report=None)
        for row in self.log:
            if "metric" in row:
                _show(self.live, row["step"], {row["metric"]: row["value"]})
        return self.live

    def __exit__(self, *_: object) -> None:
        if self.main:
            self.live.end()
