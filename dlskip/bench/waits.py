"""Does the device stand still while the host waits for a decision? Decoding steps under torch's profiler, on CUDA."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib import pyplot as plt
from torch.profiler import DeviceType

from dlskip.data.batches import left_pad
from dlskip.errors import DlskipError
from dlskip.plotting import theme

Span = tuple[float, float]  # begin and end, ms
FOR_DECISION = "cudaEventSynchronize"
_WAITS = (FOR_DECISION, "cudaStreamSynchronize", "cudaDeviceSynchronize")


@dataclass(frozen=True)
class Waits:
    """Decoding steps of one engine, each number per token.

    Args:
        engine: In tables.
        batch: Rows.
        skipped: Share of layer applications.
        ms: Wall clock.
        device_ms: In which the device computed or copied.
        decisions: Times the host waited for a decision to arrive.
        decisions_ms: How long it did.
        idle_ms: How much of that the device stood still.
        others: Times the host waited for a whole stream or device.
        launches: Kernels, copies and graphs sent to the device.
    """

    engine: str
    batch: int
    skipped: float
    ms: float
    device_ms: float
    decisions: float
    decisions_ms: float
    idle_ms: float
    others: float
    launches: float


@dataclass(frozen=True)
class Profile:
    """What a profiler saw, in ms from the first step's begin."""

    steps: list[Span]
    device: list[Span]
    waits: dict[str, list[Span]]
    launches: list[Span]


def profile_steps(model: Any, prompts: Sequence[list[int]], pad: int, tokens: int, *, warm: int = 3) -> Profile:
    """Profiles greedy decoding steps of the bare model, whose next tokens never leave the device.

    Args:
        model: With skipping attached, on CUDA; under its current policy.
        prompts: Token ids, one batch.
        pad: Padding id.
        tokens: Steps that are profiled.
        warm: Steps before.

    Raises:
        DlskipError: It is elsewhere.
    """
    require_cuda(model)
    inputs = {name: x.to(model.device) for name, x in left_pad(prompts, pad).items()}
    mask = inputs["attention_mask"]
    cache = None
    ids = inputs["input_ids"]
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities)
    with torch.inference_mode():
        for step in range(1 + warm + tokens):
            if step == 1 + warm:
                torch.cuda.synchronize()
                profiler.start()
            with torch.profiler.record_function("step"):
                out = model(input_ids=ids, attention_mask=mask, past_key_values=cache, logits_to_keep=1)
                cache = out.past_key_values
                ids = out.logits[:, -1].argmax(dim=-1, keepdim=True)
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        torch.cuda.synchronize()
        profiler.stop()
    return _read(profiler)


def require_cuda(model: Any) -> None:
    """Raises a ``DlskipError`` for a model that is not on CUDA."""
    if model.device.type != "cuda":
        raise DlskipError("only CUDA has a host that waits", where="--waits", mend="--device cuda, or leave it out")


def summed(engine: str, batch: int, skipped: float, profile: Profile) -> Waits:
    """Averages a profile over its steps."""
    count = len(profile.steps)
    began = profile.steps[0][0]
    ended = max(profile.steps[-1][1], max(end for _, end in profile.device))
    decisions = profile.waits[FOR_DECISION]
    waited = sum(b - a for a, b in decisions)
    others = [x for name, spans in profile.waits.items() if name != FOR_DECISION for x in spans]
    return Waits(
        engine, batch, skipped, (ended - began) / count, covered([(began, ended)], profile.device) / count,
        len(decisions) / count, waited / count, (waited - covered(decisions, profile.device)) / count,
        sum(began <= a and b <= profile.steps[-1][1] for a, b in others) / count, len(profile.launches) / count,
    )  # fmt: skip


def covered(spans: Sequence[Span], others: Sequence[Span]) -> float:
    """How much of ``spans``, which do not overlap, lies inside of some of ``others``, which may."""
    union: list[list[float]] = []
    for begin, end in sorted(others):
        if union and begin <= union[-1][1]:
            union[-1][1] = max(union[-1][1], end)
        else:
            union.append([begin, end])
    return sum(max(0.0, min(b, d) - max(a, c)) for a, b in spans for c, d in union)


def write_waits(found: Sequence[tuple[Waits, Profile]], about: Mapping[str, Any], out: Path) -> None:
    """Writes ``waits.json``, ``waits.md`` and a picture of a step of each engine into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [asdict(waits) for waits, _ in found]
    document = {"about": dict(about), "rows": rows}
    (out / "waits.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    names = {
        "skipped": "skipped %", "ms": "ms a token", "device_ms": "device busy, ms", "decisions": "waits for a decision",
        "decisions_ms": "waited, ms", "idle_ms": "device idle meanwhile, ms", "others": "waits for all",
        "launches": "launches",
    }  # fmt: skip
    frame = pd.DataFrame(rows).assign(skipped=[100 * waits.skipped for waits, _ in found]).rename(columns=names)
    note = "; ".join(f"{key}: {value}" for key, value in about.items())
    text = ["**Does the device wait for decisions?**", "", frame.to_markdown(index=False, floatfmt=".3f"), "",
            f"Per token of decoding steps under torch's profiler, which slows the host down. {note}.", ""]  # fmt: skip
    (out / "waits.md").write_text("\n".join(text), encoding="utf-8")
    with theme.applied(160):
        figure = draw_waits(found)
        figure.savefig(out / "waits.png")
        plt.close(figure)


def draw_waits(found: Sequence[tuple[Waits, Profile]]) -> Any:
    """The middle step of each engine: when the host sends work and waits, and when the device computes."""
    figure, axes = plt.subplots(len(found), 1, figsize=(9.6, 1.6 * len(found) + 0.8), squeeze=False)
    for ax, (waits, profile) in zip(axes[:, 0], found, strict=True):
        begin, end = profile.steps[len(profile.steps) // 2]
        lines = (("device computes", profile.device, theme.OURS), ("host sends", profile.launches, theme.MUTED),
                 ("host waits", profile.waits[FOR_DECISION], theme.RANDOM))  # fmt: skip
        for place, (_, spans, colour) in enumerate(lines):
            shown = [(a - begin, b - a) for a, b in spans if b > begin and a < end]
            ax.broken_barh(shown, (place - 0.4, 0.8), color=colour, linewidth=0)
        ax.set(yticks=range(len(lines)), yticklabels=[name for name, _, _ in lines], xlim=(0, end - begin))
        ax.set_title(f"{waits.engine}, batch {waits.batch}: one token", loc="left")
        ax.set_xlabel("ms")
    return figure


def _read(profiler: Any) -> Profile:
    waits: dict[str, list[Span]] = {name: [] for name in _WAITS}
    device: list[Span] = []
    launches: list[Span] = []
    found: list[Span] = []
    events = list(profiler.profiler.kineto_results.events())
    zero = min(event.start_ns() for event in events if event.name() == "step")
    for event in events:
        begin = (event.start_ns() - zero) / 1e6
        span = (begin, begin + event.duration_ns() / 1e6)
        name = event.name()
        if event.device_type() == DeviceType.CUDA:
            if name != "step":  # drawn over its kernels
                device.append(span)
        elif name == "step":
            found.append(span)
        elif name in waits:
            waits[name].append(span)
        elif name.startswith(("cudaLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset", "cuLaunch")):
            launches.append(span)
    return Profile(sorted(found), device, waits, launches)
