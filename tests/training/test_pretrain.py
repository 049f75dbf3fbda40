"""Layer-skip pretraining: its losses, its masks, and training without computing what is skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlskip.config import SkipPretrain
from dlskip.data.batches import Batch, Batches
from dlskip.errors import DlskipError
from dlskip.inference.scoring import target_logits
from dlskip.models import tuning
from dlskip.models.tiny import FAMILIES, tiny
from dlskip.skip import Forced, Skipper, attach
from dlskip.skip.stack import output_logits
from dlskip.steps.pretrain import Pretrain, random_masks
from dlskip.training.losses import cross_entropy, kl, skip_pretraining
from dlskip.training.teacher import teacher_logits
from tests.helpers.effort import FOUR_OR_ALL
from tests.helpers.sections import skip_pretrain, tune

Ragged = Callable[..., Batch]
LENGTHS = ((5, 3), (2, 1), (1, 4), (3, 2))


def section(**overrides: Any) -> SkipPretrain:
    train = {"steps": 4, "batch": 4, "lr": 1e-3, "max_length": 128}
    return skip_pretrain(**{"train": train, "p_warmup": 0.0} | overrides)


def trainable(model: nn.Module, skipper: Skipper) -> dict[str, nn.Parameter]:
    chosen = {id(p) for p in [*tuning.backbone_parameters(model), *skipper.adapters()]}
    return {n: p.requires_grad_(True) for n, p in model.named_parameters() if id(p) in chosen}


def gradients(loss: Tensor, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found, strict=True)}


def test_kl_is_the_textbook_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(5, 7, generator=generator).log_softmax(-1) for _ in range(2))
    a, b = p.exp(), q.exp()
    torch.testing.assert_close(kl(p, q), (a * (a / b).log()).sum(-1))
    assert (kl(p, p) == 0).all() and (kl(p, q) > 0).all() and not torch.allclose(kl(p, q), kl(q, p))
    assert kl(*(torch.tensor(x).log_softmax(-1) for x in ([[0.0, -1e4]], [[-50.0, 0.0]]))).isfinite().all()


def test_the_objective_is_equations_7_to_9(ragged: Ragged) -> None:
    """Term by term, in the direction that the paper gives each divergence."""
    batch = ragged(*LENGTHS)
    generator = torch.Generator().manual_seed(0)
    p0, p1, p2 = (torch.randn(len(batch.rows), 384, generator=generator) for _ in range(3))
    loss, parts = skip_pretraining(p0, p1, p2, batch.targets, batch.weight, alpha=0.7)

    def per_example(values: Tensor) -> float:
        return float(torch.stack([values[batch.rows == i].mean() for i in range(4)]).mean())

    def divergence(p: Tensor, q: Tensor) -> Tensor:
        return F.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True).sum(-1)

    ce = [per_example(F.cross_entropy(p, batch.targets, reduction="none")) for p in (p1, p2)]
    assert float(parts["kl_reg"]) == pytest.approx(per_example(divergence(p1, p2)), rel=1e-4)
    distill = per_example(divergence(p0, p1)) + per_example(divergence(p0, p2))
    assert float(parts["kl_distill"]) == pytest.approx(distill, rel=1e-4)
    expected = 0.7 * (distill + per_example(divergence(p1, p2))) + sum(ce) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_targets_are_predicted(family: str, skipping: Any, ragged: Ragged) -> None:
    """The LM head at target positions gives what the whole model's logits give there."""
    model, _ = skipping(family)
    batch = ragged(*LENGTHS)
    with torch.no_grad():
        everywhere = model(**batch.inputs, use_cache=False).logits[batch.rows, batch.tokens]
        torch.testing.assert_close(target_logits(model, batch), everywhere, atol=1e-5, rtol=1e-4)
    inputs = batch.input_ids[batch.rows, batch.tokens]
    later = batch.place > 0  # after the first, each input is the target before it
    assert torch.equal(inputs[later], batch.targets[:-1][later[1:]])
    assert float(cross_entropy(everywhere, batch.targets, batch.weight)) == pytest.approx(
        sum(float(F.cross_entropy(everywhere[batch.rows == i], batch.targets[batch.rows == i])) for i in range(4)) / 4,
        rel=1e-4,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("unit", "kv_fill"), [("sample", "copy"), ("token", "copy"), ("token", "project")])
def test_gathered_gradients_are_the_masked_ones(
    family: str, unit: str, kv_fill: str, skipping: Any, ragged: Ragged, masked_logits: Any
) -> None:
    """Leaving rows and tokens out trains as computing every block and multiplying by the mask does."""
    model, skipper = skipping(family, lora=True, kv_fill=kv_fill)
    parameters, batch = trainable(model, skipper), ragged(*LENGTHS)
    torch.manual_seed(0)
    n = 4 if unit == "sample" else len(batch.rows)
    runs = random_masks(n, 6, torch.full((n, 1), 0.5))
    with skipper.using(Forced(runs), None if unit == "sample" else batch.deciders):
        got = gradients(cross_entropy(target_logits(model, batch), batch.targets, batch.weight), parameters)
    full = runs if unit == "sample" else runs[batch.owner]
    reference = masked_logits(model, skipper, batch, full)
    want = gradients(cross_entropy(reference, batch.targets, batch.weight), parameters)
    assert sum(bool(g.abs().max() > 1e-6) for g in want.values()) > 0.9 * len(want)
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, atol=2e-6, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_padding_changes_no_gradient(skipping: Any, ragged: Ragged, examples: Any) -> None:
    """A ragged batch's gradient is the mean of its rows', each alone and without padding."""
    model, skipper = skipping(lora=True)
    parameters, batch = trainable(model, skipper), ragged(*LENGTHS)
    torch.manual_seed(1)
    runs = random_masks(len(batch.rows), 6, torch.full((len(batch.rows), 1), 0.5))

    def gradient(some: Batch, masks: Tensor) -> dict[str, Tensor]:
        with skipper.using(Forced(masks), some.deciders):
            return gradients(cross_entropy(target_logits(model, some), some.targets, some.weight), parameters)

    got = gradient(batch, runs)
    alone = [gradient(_row(examples, i), runs[batch.rows == i]) for i in range(4)]
    for name in got:
        torch.testing.assert_close(got[name], sum(a[name] for a in alone) / 4, atol=2e-6, rtol=1e-3)  # type: ignore[arg-type]


def _row(examples: Any, i: int) -> Batch:
    rows = examples(*LENGTHS)
    return Batches([rows[i]], pad=2, batch=1, seed=0).at(0)


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_gradient_checkpointing_changes_nothing_or_is_refused(family: str, skipping: Any, ragged: Ragged) -> None:
    """Whole rows are recomputed alike; per-token masks need the keys that checkpointing throws away."""
    model, skipper = skipping(family, lora=True)
    parameters, batch = trainable(model, skipper), ragged(*LENGTHS)
    torch.manual_seed(0)
    runs = random_masks(4, 6, torch.full((4, 1), 0.5))
    model.train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with skipper.using(Forced(runs)):
            found.append(gradients(cross_entropy(target_logits(model, batch), batch.targets, batch.weight), parameters))
    for name in parameters:
        torch.testing.assert_close(found[0][name], found[1][name])
    with pytest.raises(DlskipError, match="checkpoint"), skipper.using(Forced(runs[batch.rows]), batch.deciders):
        target_logits(model, batch)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
def test_masks_skip_free_layers_at_their_rate(p: float) -> None:
    torch.manual_seed(0)
    runs = random_masks(3000, 5, torch.full((3000, 1), p))
    assert runs[:, 0].all() and runs[:, -1].all()
    rates = 1 - runs[:, 1:-1].float().mean(dim=0)
    torch.testing.assert_close(rates, torch.full((3,), p), atol=0.04, rtol=0)
    if p == 0.3:  # independent of each other
        together = (~runs[:, 1] & ~runs[:, 2]).float().mean()
        assert float(together) == pytest.approx(0.09, abs=0.03)


def test_p_warms_up_and_is_drawn_per_sample(skipping: Any) -> None:
    model, _ = skipping(lora=True)
    torch.manual_seed(0)
    fixed = Pretrain(model, section(p=0.4, p_draw="fixed", p_warmup=0.5, teacher="self"))
    drawn = Pretrain(model, section(p=0.4, p_draw="uniform", teacher="self"))
    assert [float(fixed._probability(1, x)) for x in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0, 0.2, 0.4, 0.4])
    p = drawn._probability(4000, 0.0)
    assert p.shape == (4000, 1) and float(p.min()) >= 0 and float(p.max()) <= 0.4
    assert float(p.mean()) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("unit", ["sample", "token"])
@pytest.mark.parametrize("ce_unskipped", [0.0, 0.7])
def test_one_batch_of_copies_is_the_forwards_apart(unit: str, ce_unskipped: float, skipping: Any, ragged: Any) -> None:
    """Two students with masks of their own, and an unskipped forward if asked for, as if each ran alone."""
    model, skipper = skipping(lora=True)
    config = section(p=0.5, p_draw="fixed", teacher="self", mask_unit=unit, ce_unskipped=ce_unskipped)
    step, batch = Pretrain(model, config), ragged(*LENGTHS)
    torch.manual_seed(0)
    loss, parts = step(batch, 0, 0.0)
    assert skipper.last is not None
    copies = 3 if ce_unskipped else 2
    rows = torch.arange(4 * copies) if unit == "sample" else batch.repeat(copies).rows
    masks = [skipper.last.run_matrix()[rows % copies == i] for i in range(copies)]
    assert not torch.equal(masks[0], masks[1]) and all(mask.all() for mask in masks[2:])
    logits = []
    for mask in masks:
        with torch.no_grad(), skipper.using(Forced(mask), batch.deciders if unit == "token" else None):
            logits.append(target_logits(model, batch))
    apart, _ = skip_pretraining(teacher_logits(model, batch, "self"), *logits[:2], batch.targets, batch.weight, 1.0)
    for full in logits[2:]:
        ce = cross_entropy(full, batch.targets, batch.weight)
        apart = apart + ce_unskipped * ce
        assert float(parts["ce_unskipped"]) == pytest.approx(float(ce), rel=1e-4)
    assert float(loss.detach()) == pytest.approx(float(apart), rel=1e-4)
    skipped = 1 - torch.stack(masks[:2]).float().mean()
    assert float(parts["skip_masks"]) == pytest.approx(float(skipped), rel=1e-4)


@pytest.mark.parametrize("unit", ["sample", "token"])
def test_without_skips_students_equal_their_teacher(unit: str, skipping: Any, ragged: Ragged) -> None:
    model, _ = skipping(lora=True)
    step = Pretrain(model, section(p=0.0, teacher="self", mask_unit=unit))
    _, parts = step(ragged(*LENGTHS), 0, 0.0)
    assert float(parts["kl_distill"]) == pytest.approx(0, abs=1e-5)
    assert float(parts["kl_reg"]) == pytest.approx(0, abs=1e-5) and float(parts["skip_masks"]) == 0


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_the_teacher_gets_no_gradient_and_a_frozen_one_is_the_saved_model(
    family: str, ragged: Ragged, tmp_path: Any
) -> None:
    batch = ragged(*LENGTHS)
    model = tuning.make_trainable(tiny(family), tune(r=4))
    with torch.no_grad():
        for p in tuning.backbone_parameters(model):
            p.normal_(0, 0.1)
    tuning.save_tuned(model, tmp_path)
    saved = target_logits(model, batch).detach()
    skipper = attach(model, bottleneck=4)
    with torch.no_grad():
        for p in [*tuning.backbone_parameters(model), *skipper.adapters()]:
            p += 0.1
    tuning.load_teacher(model, tmp_path)
    frozen = Pretrain(model, section(teacher="frozen"))
    taught = teacher_logits(model, batch, frozen.config.teacher)
    torch.testing.assert_close(taught, saved, atol=1e-5, rtol=1e-4)
    own = teacher_logits(model, batch, "self")
    assert not taught.requires_grad and not own.requires_grad and (own - saved).abs().max() > 1e-2
    with torch.no_grad():
        torch.testing.assert_close(own, target_logits(model, batch))


def test_softcapped_heads_keep_their_cap(skipping: Any) -> None:
    model, _ = skipping("gemma3")
    model.config.final_logit_softcapping = 0.5
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    assert output_logits(model, 10 * hidden).abs().max() <= 0.5
