"""A decision is on its way to the host before the layer that runs meanwhile starts, and nothing else waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from dlskip.data.batches import left_pad
from dlskip.fast import use_fast_path
from dlskip.skip import Threshold, skipper_of
from dlskip.skip.passes import Pass
from dlskip.skip.stack import find_layers

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def prepared(skipping: Any, reads: str, fast: bool) -> Any:
    """A tiny Llama, eager or with the fast path."""
    model = skipping("llama", reads=reads)[0].eval().requires_grad_(False)
    if fast:
        assert use_fast_path(model)
    return model


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("reads", ["input", "output"])
def test_decided_before_the_layer_has_run(
    skipping: Any, monkeypatch: pytest.MonkeyPatch, reads: str, fast: bool
) -> None:  # fmt: skip
    model = prepared(skipping, reads, fast)
    seen: list[str] = []
    note, selection = Pass.note, Pass.selection

    def noting(self: Pass, layer: int, run: Tensor | None) -> None:
        seen.append(f"decided {layer}")
        note(self, layer, run)

    def selecting(self: Pass, layer: int) -> Any:
        seen.append(f"starts {layer}")
        return selection(self, layer)

    monkeypatch.setattr(Pass, "note", noting)
    monkeypatch.setattr(Pass, "selection", selecting)
    with skipper_of(model).using(Threshold(0.5)), torch.no_grad():
        model(**left_pad([[5, 6, 7], [8, 9]], 2))
    layers = len(find_layers(model)[2])
    for layer in range(1, layers - 1):
        ahead = seen.index(f"decided {layer}") < seen.index(f"starts {layer - 1}")
        assert ahead == (reads == "input")


@needs_cuda
@pytest.mark.parametrize(
    ("code", "fill"),
    [("eager", "copy"), ("eager", "project"), ("fast", "copy"), ("fast", "project"), ("recorded", "copy")],
)
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("batch", ["per_sample", "majority"])
def test_a_decoding_step_waits_for_decisions_alone(
    skipping: Any, code: str, rows: int, batch: Any, fill: str
) -> None:  # fmt: skip
    model = skipping("llama", kv_fill=fill)[0].eval().requires_grad_(False).to("cuda")
    if code != "eager":
        assert use_fast_path(model, compile=code == "recorded")
    ids = torch.tensor([[5, 6, 7 + i] for i in range(rows)], device="cuda")
    with skipper_of(model).using(Threshold(0.5, batch)), torch.no_grad():
        cache = model(ids).past_key_values  # no mask: Transformers would look at it, and wait
        for _ in range(3):  # for what is set up lazily
            model(ids[:, -1:], past_key_values=cache)
        with no_waiting():
            model(ids[:, -1:], past_key_values=cache)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raises where the host waits for the whole device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@pytest.mark.parametrize("fast", [False, True])
def test_the_same_tokens_as_on_the_cpu(skipping: Any, fast: bool) -> None:
    model = prepared(skipping, "input", fast)
    prompts = left_pad([[5, 6, 7], [8, 9], [10, 11, 12, 13]], 2)
    with skipper_of(model).using(Threshold(0.5)):
        here = model.generate(**prompts, max_new_tokens=6, do_sample=False)
        model.to("cuda")
        there = model.generate(**{k: v.to("cuda") for k, v in prompts.items()}, max_new_tokens=6, do_sample=False)
    assert torch.equal(here, there.cpu())
