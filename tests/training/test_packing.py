"""Sequence packing: examples that share a row train as if each had a row of its own, and none sees another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from dlskip.config import RL, Train
from dlskip.data.batches import Batch, Batches, collate
from dlskip.errors import DlskipError
from dlskip.fast import use_fast_path
from dlskip.inference.scoring import target_logits
from dlskip.methods.pretrain_static import Sets, UnderSets
from dlskip.models.tiny import FAMILIES, VOCAB, tiny
from dlskip.skip import Forced, attach
from dlskip.skip.packing import check_packing, packed_rows
from dlskip.skip.stack import find_stack
from dlskip.steps.reinforce import Reinforce
from dlskip.training.loop import Step, TrainingRun, train
from dlskip.training.stage import TrainingStage
from tests.helpers.effort import FOUR, FOUR_OR_ALL, further, tries
from tests.helpers.sections import DEFAULT
from tests.training.conftest import STEPS, TRAIN

LENGTHS = ((5, 3), (2, 1), (9, 4), (1, 2), (6, 6), (3, 1))
MOST = 20  # tokens of a row
CLOSE = {"atol": 1e-5, "rtol": 1e-3}
STAGES = ("finetune", "pretrain_sample", "pretrain_token", "rloo", "mix")
OF_OTHERS = [(name, family) for name in STEPS for family in FAMILIES if name not in STAGES or family not in FOUR]


def taken(step: Step, batch: Batch) -> tuple[Tensor, dict[str, float], dict[str, Tensor]]:
    """Loss, metrics and gradients of one step, its draws seeded."""
    torch.manual_seed(5)
    loss, metrics = step(batch, 1, 0.3)
    loss.backward()
    gradients = {n: p.grad for n, p in step.named_parameters() if p.grad is not None}
    return loss.detach(), {k: float(v) for k, v in metrics.items()}, gradients


def assert_same(make: Callable[[], Step], examples: Any) -> None:
    """A step of a packed batch = a step of the same examples with a row each."""
    batches = collate(examples(*LENGTHS), 2), collate(examples(*LENGTHS), 2, MOST)
    assert not batches[0].packed and batches[1].packed and len(batches[1].input_ids) < 4
    (loss, metrics, gradients), (packed_loss, packed_metrics, packed_gradients) = (
        taken(make().train(), batch) for batch in batches
    )
    torch.testing.assert_close(packed_loss, loss, **CLOSE)
    assert packed_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-5)
    assert packed_gradients.keys() == gradients.keys() and any(g.abs().max() > 1e-3 for g in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *((name, family) for name in STAGES for family in FOUR),
        *((name, "llama") for name in STEPS if name not in STAGES),
        *further(
            "the stages on four families, every step on llama", [o for o in OF_OTHERS if o[1] != "llama"]
        ),
    ],
)  # fmt: skip
def test_a_packed_step_is_the_unpacked_one(name: str, family: str, make_step: Any, examples: Any) -> None:
    """In loss, metrics and gradient, with the same draws: each decision is its own example's, wherever that lies."""
    assert_same(lambda: make_step(name, family), examples)


@pytest.mark.parametrize(
    "changes", [{"credit": "sample"}, {"prices": (0.2, 2.0)}, {"controller_reads": "output"}], ids=str
)
def test_readings_of_rl_stay_what_they_are(
    changes: dict[str, Any], skipping: Any, ragged: Any, rl_section: Any, examples: Any
) -> None:
    """Credit by sample, a price drawn for each sample, controllers that read a layer's output."""

    def make() -> Step:
        options = {"prices": changes.get("prices"), "reads": changes.get("controller_reads", "input")}
        model, _ = skipping(layers=4, **options)
        credit = changes.get("credit", "token")
        config: RL = rl_section(rollouts=3, credit=credit, cost_gradient="exact" if credit == "token" else "sampled")
        return Reinforce(model, config, ragged((3, 2)), 0)

    assert_same(make, examples)


@pytest.mark.parametrize("skipped", [[[1, 2]], [[1], [2]]], ids=["one_set", "two_sets"])
def test_layer_skip_pretraining_of_packed_examples(skipped: list[list[int]], skipping: Any, examples: Any) -> None:
    """The baseline: each example is under its own two sets, and not each row."""

    def make() -> Step:
        model, _ = skipping(layers=4, lora=True)
        config = DEFAULT.baselines.pretrain_static.model_copy(update={"teacher": "self"})
        return UnderSets(model, Sets(skipped=skipped), config)

    assert_same(make, examples)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kv_fill", ["copy", "project"])
@pytest.mark.parametrize(
    ("family", "window"),
    [
        *((family, None) for family in FOUR), ("mistral", 3), ("gemma3", 3),
        *further("the same with a window, llama", [("gemma3", None), ("mistral", None), ("qwen2", None)]),
    ],
)  # fmt: skip
def test_packed_logits_are_the_unpacked_ones(
    family: str, window: int | None, kv_fill: str, implementation: str, skipping: Any, examples: Any, random_masks: Any
) -> None:
    """At full depth, as the bare backbone, under masks of samples and of tokens; windows count within an example."""
    model, skipper = skipping(family, kv_fill=kv_fill)
    model.set_attn_implementation(implementation)
    if window is not None:
        skipper.config.sliding_window = window
    plain, packed = collate(examples(*LENGTHS), 2), collate(examples(*LENGTHS), 2, MOST)
    of_samples, of_tokens = random_masks(plain.size), random_masks(len(plain.rows))
    with torch.no_grad():
        torch.testing.assert_close(target_logits(model, packed), target_logits(model, plain), **CLOSE)
        with skipper.disabled():
            torch.testing.assert_close(target_logits(model, packed), target_logits(model, plain), **CLOSE)
        with skipper.using(Forced(of_samples)):
            expected = target_logits(model, plain)
        with skipper.using(Forced(of_samples), packed.sample_deciders):
            torch.testing.assert_close(target_logits(model, packed), expected, **CLOSE)
        with skipper.using(Forced(of_tokens), plain.deciders):
            expected = target_logits(model, plain)
        with skipper.using(Forced(of_tokens), packed.deciders):
            torch.testing.assert_close(target_logits(model, packed), expected, **CLOSE)


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_no_example_sees_another(family: str, skipping: Any, examples: Any, random_masks: Any) -> None:
    """Other tokens in one example change it and, bit for bit, nothing else."""
    model, skipper = skipping(family)
    rows = examples(*LENGTHS)
    changed = list(rows)
    changed[2] = examples((9, 4), seed=1)[0]
    runs = random_masks(sum(n for _, n in LENGTHS))
    found = []
    for some in (rows, changed):
        batch = collate(some, 2, 26)
        assert len(batch.input_ids) == 2
        with torch.no_grad(), skipper.using(Forced(runs), batch.deciders):
            found.append(target_logits(model, batch))
    other = batch.sample == 2
    assert torch.equal(found[0][~other], found[1][~other])
    assert ((found[0] - found[1])[other].abs().amax(dim=1) > 1e-3).all()


def test_layers_of_several_kinds_and_the_fast_path(examples: Any) -> None:
    """A stack that takes a dictionary of masks; the fast path, which knows no packed rows, leaves them alone."""
    windows = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2, "num_hidden_layers": 4}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", vocab_size=VOCAB, **sizes, **windows)).eval()
    assert set(model.config.layer_types) == {"full_attention", "sliding_attention"}
    attach(model, bottleneck=4)
    plain, packed = collate(examples(*LENGTHS), 2), collate(examples(*LENGTHS), 2, MOST)
    with torch.no_grad():
        expected = target_logits(model, plain)
        torch.testing.assert_close(target_logits(model, packed), expected, **CLOSE)
        assert use_fast_path(model)
        torch.testing.assert_close(target_logits(model, packed), expected, **CLOSE)


@settings(max_examples=tries(30), deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=9),
    most=st.integers(14, 40),
    times=st.integers(1, 3),
)
def test_every_decision_keeps_its_example(
    examples: Any, lengths: list[tuple[int, int]], most: int, times: int
) -> None:  # fmt: skip
    """Packed or not, and repeated: the same decisions in the same order, whose examples lie in one row, whole."""
    rows = [e for e in examples(*lengths) for _ in range(times)]
    plain, packed = (collate(examples(*lengths), 2, kind).repeat(times) for kind in (None, most))
    assert plain.size == packed.size == len(rows) and packed.input_ids.shape[1] <= most
    for name in ("sample", "targets", "place"):
        assert torch.equal(getattr(packed, name), getattr(plain, name))
    torch.testing.assert_close(packed.weight, plain.weight)
    torch.testing.assert_close(packed.applications, plain.applications)
    assert int(packed.attention_mask.sum()) == int(plain.attention_mask.sum())
    for batch in (plain, packed):
        assert torch.equal(batch.inputs.get("attention_mask", batch.attention_mask), batch.attention_mask)
        decides = batch.owner.masked_fill(batch.attention_mask == 0, -1)  # (R, T)
        for i, example in enumerate(rows):
            mine = (batch.sample == i).nonzero().squeeze(1)
            row = int(batch.rows[mine[0]])
            held = torch.isin(decides[row], mine).nonzero().squeeze(1)
            line = example.prompt + example.target[:-1]
            assert batch.input_ids[row, held].tolist() == line
            assert batch.position_ids[row, held].tolist() == list(range(len(line)))
            assert held.tolist() == list(range(int(held[0]), int(held[0]) + len(line))), "in one piece"
            assert batch.tokens[mine].tolist() == held[len(example.prompt) - 1 :].tolist()
            assert (decides[row, held[: len(example.prompt)]] == mine[0]).all(), "the last prompt token, for its prompt"
            assert decides[row, held[len(example.prompt) :]].tolist() == mine[1:].tolist(), "each token for itself"
        one = batch.sample_deciders
        if batch.packed:
            assert one is not None and one.rows.tolist() == batch.rows[batch.place == 0].tolist()
            assert torch.equal(one.owner[one.valid], batch.sample[batch.owner][one.valid])
        else:
            assert one is None and torch.equal(batch.sample, batch.rows)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(40, 200))
@settings(max_examples=tries(30), deadline=None, derandomize=True)
def test_rows_hold_every_example_once_and_no_more_than_fit(lengths: list[int], most: int) -> None:
    rows = packed_rows(lengths, most)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    fills = [sum(lengths[i] for i in row) for row in rows]
    assert max(fills) <= most
    assert len(rows) <= 2 * -(-sum(lengths) // most), "more than half of the tokens that there is room for are padding"
    if len(rows) < len(lengths):
        assert max(fills) - min(fills) <= max(lengths), "a row could give an example away"


def test_a_training_run_follows_the_unpacked_one(make_step: Any, examples: Any, tmp_path: Path) -> None:
    """The same examples in every step; Adam makes much of rounding, so the rate is small."""
    curves = []
    for packing in (None, 24):
        short = TRAIN.model_copy(update={"lr": 1e-4, "max_length": 24, "packing": packing})
        run = TrainingRun("any", short, examples(*LENGTHS, *LENGTHS), 2, 3, "cpu", tmp_path / "resume" / "it")
        train(make_step("pretrain_token"), run, tmp_path / str(packing))
        curves.append(pd.read_csv(tmp_path / str(packing) / "curves.csv").query("metric == 'loss'").value)
    assert len(set(curves[0])) == 7 and not curves[0].equals(curves[1])
    assert curves[1].tolist() == pytest.approx(curves[0].tolist(), rel=1e-4)
    rows = Batches(examples(*LENGTHS), 2, 6, seed=0, packing=24).at(0)
    assert rows.packed and sorted(rows.targets.tolist()) == sorted(t for e in examples(*LENGTHS) for t in e.target)


def other_model(kind: str) -> Any:
    """A tiny model of a family that is not among ours."""
    sizes = {"num_hidden_layers": 4, "hidden_size": 32, "vocab_size": VOCAB, "num_attention_heads": 4}
    more = {"intermediate_size": 64, "num_key_value_heads": 2}
    fields: dict[str, dict[str, Any]] = {
        "falcon": sizes | {"alibi": True},  # positions come from the padding
        "mamba": {k: v for k, v in sizes.items() if "attention" not in k} | {"state_size": 8},  # a state goes on
        "lfm2": sizes | more | {"layer_types": ["conv", "full_attention"] * 2},  # a convolution over tokens
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields[kind])).eval()


@pytest.mark.parametrize("kind", ["falcon", "mamba", "lfm2"])
def test_models_that_cannot_be_packed_are_refused(kind: str) -> None:
    model = other_model(kind)
    with pytest.raises(DlskipError, match=r"cannot keep examples of one row apart\n.*packing: null"):
        check_packing(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_our_families_can_be_packed(family: str) -> None:
    model = tiny(family)
    model.train()
    check_packing(model)
    attach(model, bottleneck=4)
    check_packing(model.to(torch.bfloat16))
    assert model.training, "the check leaves the mode as it was"


def test_other_attention_implementations_are_refused(examples: Any) -> None:
    model = tiny("llama")
    find_stack(model).config._attn_implementation = "flash_attention_2"
    for refused in (lambda: check_packing(model), lambda: target_logits(model, collate(examples(*LENGTHS), 2, MOST))):
        with pytest.raises(DlskipError, match=r"flash_attention_2\n.*sdpa or eager"):
            refused()


def test_a_stage_refuses_before_it_trains(monkeypatch: pytest.MonkeyPatch, examples: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("dlskip.training.stage.prepared_sha256", lambda _: "")
    params: Any = SimpleNamespace(model=None, prepare=SimpleNamespace(nlu=[], mt=[]))
    config = Train(steps=1, batch=2, lr=1e-3, max_length=16, packing=32)
    stage = TrainingStage(params, "finetune", "any", 0, config, {}, tmp_path / "out")
    with pytest.raises(DlskipError, match="cannot keep examples of one row apart"):
        stage.run(Step(), other_model("falcon"), examples(*LENGTHS), 2)
    assert not (tmp_path / "out").exists()


def test_a_row_must_hold_the_longest_example() -> None:
    with pytest.raises(ValueError, match=r"packing must be max_length \(64\) at least"):
        Train(steps=1, batch=2, lr=1e-3, max_length=64, packing=32)
