"""Layer-skip pretraining as a baseline: its loss under given sets of layers, its models, and weights that are lent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dlskip.config import PretrainStatic
from dlskip.data.batches import collate
from dlskip.errors import DlskipError
from dlskip.evaluation.evaluate import evaluate
from dlskip.inference.scoring import target_logits
from dlskip.methods import baselines, registry
from dlskip.methods.base import dropping, read_plan
from dlskip.methods.borrowed import make_borrowed
from dlskip.methods.layer_sets import block
from dlskip.methods.names import borrowed_names, title
from dlskip.methods.pretrain_static import Sets, UnderSets
from dlskip.methods.settings import FULL, Setting
from dlskip.models import artifact
from dlskip.training.losses import kl
from tests.helpers import workspace
from tests.helpers.sections import DEFAULT

LENGTHS = ((5, 3), (2, 1), (1, 4), (3, 2))
SETS = [[2, 3], [1, 2, 3], [4]]


def section(**changes: Any) -> PretrainStatic:
    own = {"teacher": "self", "alpha": 0.7}
    return PretrainStatic.model_validate(DEFAULT.baselines.pretrain_static.model_dump() | own | changes)


def under(model: Any, skipper: Any, batch: Any, skip: list[int]) -> torch.Tensor:
    with torch.no_grad(), skipper.using(dropping(skip, 6)):
        return target_logits(model, batch).log_softmax(-1)


def test_the_loss_of_one_set_is_that_of_the_equations(skipping: Any, ragged: Any) -> None:
    """Both students are the same: L_reg is 0, and the teacher counts twice."""
    model, skipper = skipping(lora=True)
    batch = ragged(*LENGTHS)
    loss, parts = UnderSets(model, Sets(skipped=[[2, 3]]), section())(batch, 0, 0.0)
    teacher, student = under(model, skipper, batch, []), under(model, skipper, batch, [2, 3])
    distance = (kl(teacher, student) * batch.weight).sum()
    ce = (F.nll_loss(student, batch.targets, reduction="none") * batch.weight).sum()
    assert float(distance) > 0.01
    torch.testing.assert_close(loss.detach(), 0.7 * 2 * distance + ce)
    assert float(parts["kl_reg"]) == 0


def test_layers_that_are_dropped_are_neither_computed_nor_trained(skipping: Any, ragged: Any) -> None:
    model, skipper = skipping(lora=True)
    step = UnderSets(model, Sets(skipped=[[2, 3]]), section())
    skipper.reset_counter()
    batch = ragged(*LENGTHS)
    loss, _ = step(batch, 0, 0.0)
    tokens = batch.input_ids.numel()
    assert skipper.counter.ran == [2 * tokens, 2 * tokens, tokens, tokens, 2 * tokens, 2 * tokens], "2, 3: the teacher"
    loss.backward()
    for name, p in model.named_parameters():
        dropped = any(f"layers.{layer}." in name for layer in (2, 3))
        if "lora_" in name:
            assert (p.grad is None or not p.grad.any()) == dropped, name
        if ".adapter." in name:
            assert p.grad is not None and p.grad.any(), f"{name}: adapters of dropped layers learn too"


def test_one_model_sees_two_sets_of_each_example(skipping: Any, ragged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, skipper = skipping(lora=True)
    batch, step = ragged(*LENGTHS), UnderSets(model, Sets(skipped=SETS), section())
    drawn = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2]])
    orders = iter([[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]])
    monkeypatch.setattr(torch, "randperm", lambda n: torch.tensor(next(orders))[:n])
    loss, _ = step(batch, 0, 0.0)
    teacher = under(model, skipper, batch, [])
    each = torch.stack([under(model, skipper, batch, skip) for skip in SETS])  # (sets, N, V)
    first, second = (each[drawn[batch.rows, k], torch.arange(len(batch.rows))] for k in (0, 1))
    kls = kl(teacher, first) + kl(teacher, second) + kl(first, second)
    ce = sum(F.nll_loss(s, batch.targets, reduction="none") for s in (first, second)) / 2
    torch.testing.assert_close(loss.detach(), ((0.7 * kls + ce) * batch.weight).sum(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sets", [SETS[:1], SETS], ids=["one", "two"])
def test_packed_examples_have_the_loss_of_examples_apart(sets: list[list[int]], skipping: Any, examples: Any) -> None:
    model, _ = skipping(lora=True)
    step, rows = UnderSets(model, Sets(skipped=sets), section()), examples(*LENGTHS)
    losses = []
    for packing in (None, 10):
        batch = collate(rows, 2, packing)
        assert batch.packed == (packing is not None)
        torch.manual_seed(5)  # of the sets that are drawn
        losses.append(step(batch, 0, 0.0)[0])
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("models", ["per_share", "one"])
def test_its_models_are_trained_planned_and_evaluated(
    models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each share one that knows its layers alone, or one that has seen them all."""
    once = (
        {"grid__trained": ["static"], "grid__trained_once": ["vanilla_long", "pretrain_static"]}
        if models == "one"
        else {}
    )
    params = workspace.parameters(baselines__pretrain_static__models=models, **once)
    name = workspace.enter(tmp_path, monkeypatch, params)
    workspace.untrained(params, name, "vanilla")
    out = artifact.directory("pretrain_static", name, workspace.SEED)
    if models == "one":
        baselines.train_baseline_once(params, "pretrain_static", name, workspace.SEED)
        folders = dict.fromkeys(params.evaluate.shares, out / "all")
    else:
        for share in params.evaluate.shares:
            baselines.train_baseline(params, "pretrain_static", share, name, workspace.SEED)
        folders = {share: out / str(share) for share in params.evaluate.shares}
    for share, folder in folders.items():
        trained = json.loads((folder / "provenance.json").read_text())["config"]["sets"]["skipped"]
        assert (block(share, 6, params.baselines.static.block) in trained) and (len(trained) == 1) == (models != "one")
    baselines.make_baseline(params, "pretrain_static", name, workspace.SEED)
    planned = read_plan(out).settings
    assert {p.setting.share: Path(p.weights) for p in planned} == folders and all(p.adapters for p in planned)
    evaluate(params, "pretrain_static", "nlu", name, workspace.SEED)
    rows = Path("evaluations/pretrain_static", f"{name}-0", "nlu", "rows.csv").read_text()
    assert all(f",{share}," in rows for share in folders)


def test_teacher_and_layers_are_those_that_the_parameters_say() -> None:
    with pytest.raises(DlskipError, match=r"grid.trained_once must be \['vanilla_long', 'pretrain_static'\]"):
        workspace.parameters(baselines__pretrain_static__models="one", grid__trained=["static"])
    paper = workspace.parameters("paper").baselines
    assert (paper.static.init, paper.pretrain_static.init, paper.pretrain_static.teacher) == ("base", "base", "self")


@pytest.mark.slow
def test_what_is_borrowed_runs_on_the_weights_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = workspace.parameters(grid__borrowed=borrowed_names())
    name = workspace.enter(tmp_path, monkeypatch, params)
    workspace.untrained(params, name, "vanilla", "skip_pretrain", "ours")
    for borrowed in borrowed_names():
        make_borrowed(params, borrowed, name, workspace.SEED)
        planned, lender = registry.method(borrowed).settings(params, name, workspace.SEED), borrowed.split("_on_")[1]
        assert {p.weights for p in planned} == {str(artifact.directory(lender, name, workspace.SEED))}
        assert [p.setting for p in planned] == [FULL, *(Setting(share=share) for share in params.evaluate.shares)]
        own = borrowed.split("_on_")[0]
        baselines.make_baseline(params, own, name, workspace.SEED)
        plain = registry.method(own).settings(params, name, workspace.SEED)
        if own != "shortgpt":  # which measures the weights
            assert [p.skip for p in plain] == [p.skip for p in planned[1:]]
        assert title(borrowed).startswith(title(own)) and all(p.adapters for p in planned)
    evaluate(params, "early_exit_on_ours", "mt", name, workspace.SEED)
    plan = artifact.directory("static_on_ours", name, workspace.SEED) / "plan.json"
    before = plan.read_text()
    weights = artifact.directory("ours", name, workspace.SEED) / "skip.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    make_borrowed(params, "static_on_ours", name, workspace.SEED)
    assert plan.read_text() != before, "other weights make another plan, so that it is evaluated again"
