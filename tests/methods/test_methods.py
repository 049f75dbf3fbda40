"""The methods that ours is compared with: each drops the layers that its paper says, and computes none of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlskip import config
from dlskip.data.batches import collate
from dlskip.errors import DlskipError
from dlskip.evaluation.speed import mixed, time_policies
from dlskip.inference.decode import decode
from dlskip.inference.scoring import target_logits
from dlskip.methods import base, registry
from dlskip.methods.ablation import STEPS, ablation, weights_of
from dlskip.methods.base import dropping
from dlskip.methods.baselines import of_file
from dlskip.methods.layer_sets import block, evenly_spaced_skips, number_skipped
from dlskip.methods.names import TITLES, title
from dlskip.methods.settings import PlannedSetting, Setting
from dlskip.methods.shortgpt import block_influence
from dlskip.methods.skip_decode import Growing, in_order
from dlskip.methods.static import Cut
from dlskip.models import artifact, tuning
from dlskip.models.tiny import FAMILIES, tiny
from dlskip.skip import attach
from dlskip.skip.policy import Policy
from dlskip.skip.stack import find_layers, find_stack, output_logits
from tests.helpers import default, workspace
from tests.helpers.effort import FOUR_OR_ALL
from tests.helpers.sections import tune

REPO = Path(__file__).resolve().parents[2]
PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16], [17, 18]]
DEFAULT = config.load_params(default.PARAMS)


def run(model: Any, skipper: Any, policy: Policy, new: int = 6, prompts: Any = PROMPTS) -> Any:
    with skipper.using(policy):
        return decode(model, skipper, prompts, eos=-1, pad=2, max_new_tokens=new, lengths=[new] * len(prompts))


@given(st.floats(0.01, 0.99), st.integers(3, 48))
def test_layer_sets_keep_the_ends_and_have_the_asked_size(share: float, layers: int) -> None:
    k = number_skipped(share, layers)
    for found in (block(share, layers, "top"), block(share, layers, "middle"), evenly_spaced_skips(share, layers)):
        assert len(found) == len(set(found)) == k and all(0 < layer < layers - 1 for layer in found)
    assert block(share, layers, "top")[-1:] in ([], [layers - 2])
    gaps = torch.tensor([x for x in range(layers) if x not in evenly_spaced_skips(share, layers)]).diff()
    assert int(gaps.max()) - int(gaps.min()) <= 1, "evenly spaced"


@pytest.mark.parametrize("family", FAMILIES)
def test_dropped_layers_are_as_if_they_were_not_there(family: str, ragged: Any) -> None:
    model = tiny(family, layers=6)
    if model.config.model_type == "gemma3_text":
        pytest.skip("its layer types belong to positions: a shorter model is another one")
    cut, batch = copy.deepcopy(model), ragged((5, 2), (3, 3), (8, 1))
    owner, name, layers = find_layers(cut)
    setattr(owner, name, nn.ModuleList(layer for i, layer in enumerate(layers) if i not in (2, 3)))
    owner.config.num_hidden_layers = 4  # type: ignore[union-attr]
    for i, layer in enumerate(find_layers(cut)[2]):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = i
    skipper = attach(model, bottleneck=0)
    assert not list(skipper.parameters())
    with skipper.using(dropping([2, 3], 6)):
        torch.testing.assert_close(target_logits(model, batch), target_logits(cut, batch), atol=1e-5, rtol=1e-5)
    assert skipper.counter.ran[2] == skipper.counter.ran[3] == 0 and skipper.counter.ran[1] > 0
    with skipper.full_depth():
        assert torch.equal(target_logits(model, batch), target_logits(tiny(family, layers=6), batch))


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_early_exit_reads_the_hidden_state_of_its_layer(family: str, ragged: Any) -> None:
    model, batch = tiny(family, layers=6), ragged((5, 2), (3, 3))
    stack: Any = find_stack(model)
    states = stack(**batch.inputs, use_cache=False, output_hidden_states=True).hidden_states
    norm = next(m for n, m in stack.named_children() if n in ("norm", "ln_f", "final_layer_norm"))
    expected = output_logits(model, norm(states[3][batch.rows, batch.tokens]))
    skipper = attach(model, bottleneck=0)
    policy = registry.method("early_exit").policy(
        PlannedSetting(setting=Setting(share=0.5), weights="", skip=[3, 4, 5], layers=6), "sentiment", "per_sample"
    )
    with skipper.using(policy):
        torch.testing.assert_close(target_logits(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert skipper.counter.ran[3:] == [0, 0, 0]
    assert all(r.tolist() == [True] * 3 + [False] * 3 for d in run(model, skipper, policy) for r in d.runs)


@given(st.floats(0.01, 0.99), st.integers(3, 48))
def test_skip_decode_begins_in_the_middle_or_at_the_bottom(share: float, layers: int) -> None:
    """However many are skipped, it is a centred block, or the lowest layers; and those skipped before stay skipped."""
    k = number_skipped(share, layers)
    middle, bottom = (in_order(share, layers, order) for order in ("intermediate", "shallow"))
    assert bottom == list(range(1, 1 + k))
    for count in range(k + 1):
        assert sorted(middle[:count]) == block(count / layers, layers, "middle")


@pytest.mark.parametrize(
    ("order", "last"),
    [
        ("intermediate", [True, True, False, False, False, False, True, True]),
        ("shallow", [True, False, False, False, False, True, True, True]),
    ],
)
def test_skip_decode_s_layers_are_what_the_parameters_say(
    order: str, last: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = workspace.parameters(baselines__skip_decode__order=order, evaluate__shares=[0.5], prepare__mt=[])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dlskip.methods.base.layer_count", lambda *_: 8)
    monkeypatch.setattr("dlskip.methods.skip_decode.load_tokenizer", lambda *_: None)
    method = registry.method("skip_decode")
    (planned,) = method.make(params, "tiny-llama", 0)
    model = tiny("llama", layers=8)
    skipper = attach(model, bottleneck=0)
    decoded = run(model, skipper, method.policy(planned, "entailment", "per_sample"), new=2)
    assert all(runs.tolist() == last for one in decoded for runs in one.runs)


@pytest.mark.parametrize("order", ["intermediate", "shallow"])
def test_skip_decode_grows_and_never_asks_for_what_was_not_computed(order: Any) -> None:
    results, layers = [], in_order(0.9, 8, order)
    for fill in ("copy", "project"):
        model = tiny("llama", layers=8)
        skipper = attach(model, bottleneck=0, kv_fill=fill)
        results.append(run(model, skipper, Growing(layers, 5), new=9))
    skipped = (~torch.stack(results[0][0].runs)).sum(dim=1).tolist()
    assert skipped == [0, 1, 2, 4, 5, 6, 6, 6, 6], "linear up to its maximum"
    for a, b in zip(*results, strict=True):
        assert a.tokens == b.tokens, "the fill rule changes nothing: filled keys are never attended to"
    assert torch.stack(results[0][0].runs)[-1].tolist() == [True] + [False] * 6 + [True]


def test_skip_decode_uses_its_maximum_at_once_for_an_answer() -> None:
    method = registry.method("skip_decode")
    setting = PlannedSetting(setting=Setting(share=0.5), weights="", skip=[1, 2, 3], layers=6, growing={"en-de": 4})
    model = tiny("llama", layers=6)
    skipper = attach(model, bottleneck=0)
    answer = run(model, skipper, method.policy(setting, "sentiment", "per_sample"), new=2)
    assert all((~r).sum() == 3 for d in answer for r in d.runs)
    sentence = run(model, skipper, method.policy(setting, "en-de", "per_sample"), new=6)
    assert [int((~r).sum()) for r in sentence[0].runs] == [0, 1, 2, 2, 3, 3]


def test_the_layer_of_least_influence_is_the_one_that_changes_nothing(ragged: Any) -> None:
    model: Any = tiny("llama", layers=6)
    with torch.no_grad():
        for weight in (model.model.layers[3].self_attn.o_proj.weight, model.model.layers[3].mlp.down_proj.weight):
            weight.zero_()
    influence = block_influence(model, ragged((5, 2), (3, 3), (8, 1)))
    assert influence.shape == (6,) and influence[3] == pytest.approx(0, abs=1e-6)
    assert int(influence[1:-1].argmin()) + 1 == 3


def test_static_training_moves_the_layers_that_stay_and_no_other(examples: Any) -> None:
    model = tuning.make_trainable(tiny("llama", layers=6), tune(r=4))
    attach(model, bottleneck=0)
    step = Cut(model, dropping([2, 3], 6))
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(step.groups(), lr=1e-2, weight_decay=0.0)
    batch = collate(examples((5, 2), (3, 3)), pad=2)
    for _ in range(2):
        loss, _ = step(batch, 0, 0.0)
        loss.backward()
        optimizer.step()
    for name, p in model.named_parameters():
        if p.requires_grad:
            dropped = ".layers.2." in name or ".layers.3." in name
            assert torch.equal(p, before[name]) == dropped, name


def test_plans_hold_what_they_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = Path("artifacts/vanilla/b-0/backbone")
    weights.mkdir(parents=True)
    (weights / "adapter_model.safetensors").write_bytes(b"one")
    settings = [PlannedSetting(setting=Setting(share=0.5), weights=str(weights.parent), layers=6, skip=[2, 3])]
    out = artifact.directory("unified", "b", 0)
    base.write_plan("unified", out, settings, [Path(__file__)])
    assert base.read_plan(out).settings == settings
    assert registry.method("unified").settings(DEFAULT, "b", 0) == settings
    first = (out / "plan.json").read_text()
    (weights / "adapter_model.safetensors").write_bytes(b"two")
    base.write_plan("unified", out, settings, [Path(__file__)])
    assert (out / "plan.json").read_text() != first, "new weights make another plan"
    plan = json.loads(first)
    plan["settings"][0]["skipp"] = 1
    (out / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(DlskipError, match=r"unified/b-0/plan\.json: settings\.0\.skipp: unknown key"):
        base.read_plan(out)
    with pytest.raises(DlskipError, match="no such file"):
        base.read_plan(tmp_path / "none")


def test_an_ablation_goes_through_the_steps_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leaves out hands on the weights that came before; what it trains starts from them."""
    monkeypatch.chdir(tmp_path)
    for name in ("skip_pretrain", "rl"):
        weights = artifact.directory(name, "b", 0) / "skip.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(name.encode())
    started = {}

    def train(*_: Any, start: Path, out: Path) -> None:
        started[out] = start
        out.mkdir(parents=True)
        (out / "skip.safetensors").write_bytes(b"new")

    monkeypatch.setattr("dlskip.steps.reinforce.rl", train)
    for name in ("no_mixer", "no_mixer_no_sampling"):
        for step in STEPS:
            ablation(DEFAULT, name, step, "b", 0)
    trained = artifact.directory("no_mixer_no_sampling", "b", 0) / "rl"
    assert started == {trained: artifact.directory("skip_pretrain", "b", 0)}
    assert weights_of("no_mixer_no_sampling", "b", 0) == trained
    assert weights_of("no_mixer", "b", 0) == artifact.directory("rl", "b", 0)
    named = artifact.directory("no_mixer", "b", 0) / "mixer" / artifact.SAME_AS
    before = named.read_text()
    (artifact.directory("rl", "b", 0) / "skip.safetensors").write_bytes(b"others")
    for step in STEPS:
        ablation(DEFAULT, "no_mixer", step, "b", 0)
    assert named.read_text() != before, "other weights make another artifact, so that it is evaluated again"
    with pytest.raises(DlskipError, match="no variant 'magic'"):
        ablation(DEFAULT, "magic", "rl", "b", 0)


def test_every_name_is_a_method_and_every_method_has_a_name() -> None:
    named = set(TITLES)
    assert {registry.method(name).name for name in named} == named
    assert set(DEFAULT.grid.baselines) <= named
    for variant in DEFAULT.ablations.variants:
        assert registry.method(variant).name == variant and title(variant)
    with pytest.raises(DlskipError, match="no method 'magic'"):
        of_file("magic")
    with pytest.raises(DlskipError, match="artifacts/magic/b-0/mixer: no such artifact"):
        registry.method("magic").settings(DEFAULT, "b", 0)


def test_timing_counts_what_ran_and_times_every_policy_alike() -> None:
    model = tiny("llama", layers=6)
    skipper = attach(model, bottleneck=0)
    batches = mixed([PROMPTS[:2], PROMPTS[2:3]], 2, rows=5)
    assert batches == [[PROMPTS[0], PROMPTS[2]], [PROMPTS[1], PROMPTS[0]]]
    assert mixed([PROMPTS], 3, rows=1) == [PROMPTS[:3]], "one batch at least"
    full, half = time_policies(model, skipper, [Policy(), dropping([2, 3, 4], 6)], batches, tokens=3, repeats=2, pad=2)
    assert (full.skip_prefill, full.skip_decode) == (0.0, 0.0)
    assert (half.skip_prefill, half.skip_decode) == (0.5, 0.5)
    assert all(len(t.prefill) == len(t.decode) == 2 for t in (full, half))
    assert all(t.prefill_ms > 0 and t.decode_ms > 0 for t in (full, half))
