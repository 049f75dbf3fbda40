"""Cut models, and the bench: what it counts, compares and writes. No time is asserted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlskip.bench import report, waits
from dlskip.bench.engines import EngineKind, Exactly, engines, evenly_spaced_kept
from dlskip.bench.rows import expected, layer_costs
from dlskip.bench.run import bench
from dlskip.bench.timing import EngineTiming, time_engines
from dlskip.errors import DlskipError
from dlskip.fast import use_fast_path
from dlskip.inference.export import cut
from dlskip.models.tiny import FAMILIES, tiny
from dlskip.skip import Forced, attach
from tests.helpers.effort import tries

IDS = torch.arange(3, 20)[None]
PROMPTS = [list(range(3, 9)), list(range(5, 15)), [4, 4, 7]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_model_is_the_forced_static_mask(family: str) -> None:
    plain: Any = tiny(family)
    small = cut(plain, [0, 2, 3, 5])
    model: Any = tiny(family)
    runs = torch.tensor([True, False, True, True, False, True])
    with torch.no_grad(), attach(model, bottleneck=0).using(Forced(runs)):
        expected = model(input_ids=IDS).logits
        torch.testing.assert_close(small(input_ids=IDS).logits, expected)
        tokens = model.generate(IDS, max_new_tokens=8, do_sample=False)
    assert torch.equal(small.generate(IDS, max_new_tokens=8, do_sample=False), tokens)
    assert plain.config.num_hidden_layers == 6 and len({id(p) for p in plain.parameters()}) > 6


def test_a_cut_model_shares_its_weights_and_is_saved_alone(tmp_path: Path) -> None:
    plain: Any = tiny("llama")
    small = cut(plain, [0, 5])
    assert {id(p) for p in small.parameters()} < {id(p) for p in plain.parameters()}
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path)
    torch.testing.assert_close(again(input_ids=IDS).logits, small(input_ids=IDS).logits)


@pytest.mark.parametrize("keep", [[], [0, 6], [0, 2, 2], [2, 0], [-1, 0]])
def test_layers_that_are_not_there_cannot_be_kept(keep: list[int]) -> None:
    with pytest.raises(DlskipError, match="keep"):
        cut(tiny("llama"), keep)


def test_a_model_that_skips_is_not_cut() -> None:
    model = tiny("llama")
    attach(model, bottleneck=4)
    with pytest.raises(DlskipError, match="skipping is attached"):
        cut(model, [0, 5])


@settings(max_examples=tries(40), deadline=None)
@given(st.integers(1, 5), st.integers(3, 12), st.floats(0, 1), st.sampled_from(["per_sample", "majority"]))
def test_masks_of_one_share_skip_the_same_number_in_every_row(n: int, layers: int, share: float, batch: str) -> None:
    policy = Exactly(share, batch)
    policy.begin(n, layers, 1, torch.device("cpu"))
    runs = torch.stack([policy.decide(i, None, None) for i in range(layers)], dim=1)  # type: ignore[misc]
    assert runs[:, [0, -1]].all()
    assert set((~runs).sum(dim=1).tolist()) == {min(layers - 2, round(share * layers))}
    assert batch == "per_sample" or len({tuple(row) for row in runs.tolist()}) == 1


@given(st.integers(3, 40), st.floats(0, 1))
def test_evenly_keeps_the_first_and_the_last_and_as_many_as_asked(layers: int, share: float) -> None:
    skipped = min(layers - 2, round(share * layers))
    kept = evenly_spaced_kept(layers, skipped)
    assert kept[0] == 0 and kept[-1] == layers - 1 and len(set(kept)) == layers - skipped == len(kept)


def pair() -> tuple[Any, Any]:
    plain, model = tiny("llama"), tiny("llama")
    attach(model, bottleneck=8)  # as in tests/fast, which shares the compiled code
    return plain, model


def test_every_engine_runs_as_often_and_its_skips_are_counted() -> None:
    todo = engines(*pair(), [0.5], [0.5], 3)
    found = time_engines(todo, PROMPTS, pad=2, tokens=3, repeats=2)
    assert list(found) == [
        "plain", "full", "random 0.5", "random 0.5, same mask", "cut 0.5", "learned 0.5", "cut to 2",
    ]  # fmt: skip
    assert {(len(s.prefill), len(s.decode)) for s in found.values()} == {(2, 2)}
    assert found["full"].skipped == {"prefill": 0.0, "decode": 0.0}
    assert found["random 0.5"].skipped == {"prefill": 0.5, "decode": 0.5}
    assert found["cut 0.5"].skipped == {"prefill": 0.5, "decode": 0.5}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_code_is_compared_with_itself_at_full_depth() -> None:
    plain, model = pair()
    use_fast_path(model)
    plain.requires_grad_(True)
    todo = engines(plain, model, [0.5], [0.5], 1, compile=True)
    assert all("forward" not in vars(module) for module in plain.modules())  # the plain backbone stays plain
    assert all(x.requires_grad for x in plain.parameters())
    timings = time_engines(todo, PROMPTS[:1], pad=2, tokens=3, repeats=1)
    assert [name for name, s in timings.items() if s.kind == "compiled"] == [
        "full, compiled", "random 0.5, compiled", "learned 0.5, compiled", "cut to 3, compiled",
    ]  # fmt: skip
    assert timings["random 0.5, compiled"].skipped["decode"] == 0.5
    found = pd.DataFrame(report.speed_rows(timings, 1, 6)).query("phase == 'decode'").set_index("engine")
    full, half = found.loc["full, compiled"], found.loc["random 0.5, compiled"]
    small = found.loc["cut to 3, compiled"]
    assert small["skipped"] == 0.5 and small["efficiency"] == pytest.approx(1)
    assert full["speedup"] == 1 and half["speedup"] == pytest.approx(full["ms"] / half["ms"])
    assert half["against_plain"] == pytest.approx(found.loc["plain", "ms"] / half["ms"])
    assert "compiled, times the plain backbone's speed" in " ".join(report.words(found.reset_index()))
    assert len(engines(plain, model, [0.5], [], 2, compile=True)) == len(engines(plain, model, [0.5], [], 2))


def test_the_early_exit_drafter_gives_the_plain_model_s_text() -> None:
    engine = engines(*pair(), [], [], 1, exit_at=2)[-1]
    ids = torch.tensor(PROMPTS[:1])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
    assert torch.equal(engine.model.generate(ids, **options, **engine.options), engine.model.generate(ids, **options))


def test_rows_follow_from_the_costs_of_a_layer_and_of_the_rest() -> None:
    def taking(kind: EngineKind, ms: float, skipped: float, share: float | None = None) -> EngineTiming:
        return EngineTiming(kind, share, [ms / 1e3], [ms / 1e4], {"prefill": skipped, "decode": skipped})

    # ten layers of 2 ms and 4 ms for the rest; skipping costs the wrapped model 1 ms
    timings = {
        "plain": taking("plain", 24, 0.0), "full": taking("full", 25, 0.0),
        "random 0.5": taking("random", 15, 0.5, 0.5),
        "cut 0.5": taking("cut", 14, 0.5, 0.5), "cut to 2": taking("cut", 8, 0.8),
    }  # fmt: skip
    found = pd.DataFrame(report.speed_rows(timings, 1, 10)).query("phase == 'prefill'").set_index("engine")
    half = found.loc["random 0.5"]
    assert half["speedup"] == pytest.approx(25 / 15) and half["ideal"] == pytest.approx(24 / 14)
    assert half["efficiency"] == pytest.approx((25 / 15) / (24 / 14))
    assert half["against_cut"] == pytest.approx(14 / 15) and half["against_plain"] == pytest.approx(24 / 15)
    assert report.overheads(found.reset_index())["1"]["prefill"] == pytest.approx(1 / 24)
    assert found.loc["cut 0.5", "efficiency"] == pytest.approx(1)  # its speed-up is against the plain backbone


def test_losses_are_said_plainly() -> None:
    row = {"batch": 8, "phase": "decode", "kind": "random", "skipped": 0.3, "speedup": 0.8, "engine": "random 0.3"}
    full = {"batch": 8, "phase": "decode", "kind": "full", "engine": "full", "skipped": 0.0, "speedup": 1.0}
    (said,) = report.words(pd.DataFrame([full | {"against_plain": 0.9}, row | {"against_plain": 0.7}]))
    assert "SLOWER than full depth: random 0.3" in said and "wrapping alone costs +11.1 %" in said


@pytest.mark.slow
def test_a_bench_leaves_numbers_a_table_and_a_picture(tmp_path: Path) -> None:
    table = bench(
        *pair(), PROMPTS, tmp_path, batches=[1, 2], shares=[0.3, 0.5], thresholds=[0.4], tokens=2, repeats=1, pad=2,
        exit_at=2,
    )  # fmt: skip
    document = json.loads((tmp_path / "bench.json").read_text())
    assert len(document["rows"]) == len(table) and set(document["seconds"]) == {"1", "2"}
    assert document["about"]["layers"] == 6 and set(document["overhead"]) == {"1", "2"}
    text = (tmp_path / "bench.md").read_text()
    assert all(line in text for line in document["words"]) and "nan" not in text
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".csv", ".md", ".svg"}
    with pytest.raises(DlskipError, match="no prompt"):
        bench(*pair(), [], tmp_path, batches=[1], shares=[], thresholds=[], tokens=2, repeats=1, pad=2)


def test_rows_that_differ_are_bound_by_what_a_layer_costs_for_some_of_them() -> None:
    assert expected({1: 1.0, 2: 2.0, 4: 4.0}, 4, 0.25) == pytest.approx(3.0)  # linear: the mean number of rows
    assert expected({1: 2.0, 4: 2.0}, 4, 0.5) == pytest.approx(2.0 * (1 - 0.5**4))  # as dear for one as for all
    seconds = {"plain": ("plain", 0.0, 24), "full": ("full", 0.0, 24), "random 0.4": ("random", 0.4, 18),
               "cut 0.4": ("cut", 0.4, 16), "cut to 2": ("cut", 0.8, 8)}  # fmt: skip
    timings = {
        name: EngineTiming(kind, 0.4, [ms / 1e3], [ms / 1e3], {"prefill": share, "decode": share})  # type: ignore[arg-type]
        for name, (kind, share, ms) in seconds.items()
    }
    costs = {"prefill": {1: 0.5, 2: 1.0, 4: 2.0}, "decode": {1: 2.0, 2: 2.0, 4: 2.0}}
    found = pd.DataFrame(report.speed_rows(timings, 4, 10, costs)).query("kind == 'random'").set_index("phase")
    assert found.loc["prefill", "bound"] == pytest.approx(found.loc["prefill", "ideal"])
    assert found.loc["decode", "bound"] == pytest.approx(24 / (24 - 8 * 2.0 * 0.5**4))


def test_layers_are_costed_for_fewer_rows() -> None:
    plain, _ = pair()
    found = layer_costs(plain, cut(plain, [0, 5]), [*PROMPTS, *PROMPTS][:3], 2, repeats=1)
    assert {phase: list(costs) for phase, costs in found.items()} == {"prefill": [1, 2, 3], "decode": [1, 2, 3]}


def test_the_device_s_idle_time_is_what_no_kernel_covers() -> None:
    assert waits.covered([(0, 4), (6, 8)], [(1, 2), (1.5, 3), (7, 9)]) == pytest.approx(2 + 1)
    profile = waits.Profile(
        steps=[(0.0, 10.0), (10.0, 20.0)], device=[(1.0, 5.0), (6.0, 19.0), (19.0, 22.0)],
        waits={"cudaEventSynchronize": [(4.0, 7.0)], "cudaStreamSynchronize": [(12.0, 13.0)],
               "cudaDeviceSynchronize": [(20.5, 22.0)]}, launches=[(0.0, 1.0)] * 4,
    )  # fmt: skip
    found = waits.summed("full", 1, 0.0, profile)
    assert (found.ms, found.device_ms) == pytest.approx((11.0, 10.0))
    assert (found.decisions, found.decisions_ms, found.idle_ms) == pytest.approx((0.5, 1.5, 0.5))
    assert (found.others, found.launches) == pytest.approx((0.5, 2.0))


def test_waits_are_for_cuda_alone() -> None:
    with pytest.raises(DlskipError, match="CUDA"):
        waits.require_cuda(pair()[1])
