"""Loading backbones and tuning them, on tiny models of every family; nothing here needs a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from dlskip.config import Backbone
from dlskip.errors import DlskipError
from dlskip.models import backbone, tuning
from dlskip.models.tiny import FAMILIES, tiny, tiny_tokenizer
from dlskip.skip import attach
from dlskip.skip.stack import find_layers, find_stack, output_logits
from tests.helpers.effort import FOUR_OR_ALL
from tests.helpers.sections import tune

IDS = torch.arange(3, 20)[None]
LORA = tune(r=4)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return out


def perturb(parameters: list[nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in parameters:
            p += 0.05 * torch.randn(p.shape, generator=generator).to(p.dtype)


def trained(model: nn.Module) -> set[str]:
    return {n for n, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """PEFT draws LoRA's A from the global state, which must not depend on the tests before."""
    torch.manual_seed(0)


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny Llama where a user's own model might lie."""

    def write(**options: int) -> Path:
        tiny("llama", **options).save_pretrained(tmp_path / "own")
        tiny_tokenizer().save_pretrained(tmp_path / "own")
        return tmp_path / "own"

    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_stored_and_loaded_frozen(family: str, tmp_path: Path) -> None:
    spec = Backbone(source=f"tiny-{family}", dtype="float32")
    backbone.materialise("it", spec, tmp_path / "it")
    model, tokenizer = backbone.load_backbone("it", spec, tmp_path)
    assert torch.equal(logits(model), logits(tiny(family)))
    assert not model.training and not trained(model)
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer.padding_side == "left" and tokenizer.pad_token_id is not None
    text = "Ein Mäuschen 他看见了一座房子 \N{SNOWMAN}"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    info = json.loads((tmp_path / "it" / "source.json").read_text())
    assert (info["kind"], info["dtype"]) == ("stored", "float32")
    assert info["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrapping", ["plain", "lora", "lora+skip"])
def test_the_stack_and_its_layers_are_found(family: str, wrapping: str) -> None:
    model: nn.Module = tiny(family, layers=5)
    expected = logits(model)
    if wrapping != "plain":
        model = tuning.make_trainable(model, LORA)
    if wrapping == "lora+skip":
        attach(model, bottleneck=4)
    owner, attribute, layers = find_layers(model)
    assert len(layers) == 5 and getattr(owner, attribute) is layers
    with torch.no_grad():
        hidden = find_stack(model)(input_ids=IDS, use_cache=False).last_hidden_state
    assert torch.equal(output_logits(model, hidden), expected)


def test_a_directory_is_pointed_to_not_copied(stored: Callable[..., Path], tmp_path: Path) -> None:
    spec = Backbone(source=str(stored(layers=4)), dtype="float32")
    backbone.materialise("own", spec, tmp_path / "models" / "own")
    assert [f.name for f in (tmp_path / "models" / "own").iterdir()] == ["source.json"]
    model, _ = backbone.load_backbone("own", spec, tmp_path / "models")
    assert torch.equal(logits(model), logits(tiny("llama", layers=4)))


def test_a_missing_padding_token_becomes_the_end_token(stored: Callable[..., Path], tmp_path: Path) -> None:
    own = stored()
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(own)
    spec = Backbone(source=str(own))
    backbone.materialise("own", spec, tmp_path / "models" / "own")
    assert backbone.load_tokenizer("own", spec, tmp_path / "models").pad_token_id == tokenizer.eos_token_id


def test_pickled_weights_are_refused(stored: Callable[..., Path], tmp_path: Path) -> None:
    own = stored()
    (own / "model.safetensors").unlink()
    torch.save(tiny("llama").state_dict(), own / "pytorch_model.bin")
    spec = Backbone(source=str(own))
    backbone.materialise("own", spec, tmp_path / "models" / "own")
    with pytest.raises(DlskipError, match="only safetensors are read"):
        backbone.load_backbone("own", spec, tmp_path / "models")


def test_mistakes_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DlskipError, match="hf auth login"):
        backbone.materialise("x", Backbone(source=str(tmp_path / "absent")), tmp_path / "x")
    with pytest.raises(DlskipError, match="one of llama, gpt2"):
        backbone.materialise("x", Backbone(source="tiny-elephant"), tmp_path / "x")
    with pytest.raises(DlskipError, match="dvc repro backbone@other"):
        backbone.load_backbone("other", Backbone(source="tiny-llama"), tmp_path)
    backbone.materialise("x", Backbone(source="tiny-llama"), tmp_path / "x")
    with pytest.raises(DlskipError, match="prepared from tiny-llama, not from tiny-opt"):
        backbone.load_backbone("x", Backbone(source="tiny-opt"), tmp_path)


def test_encoder_decoders_are_refused(tmp_path: Path) -> None:
    config = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=3, num_heads=2)
    config.save_pretrained(tmp_path / "t5")
    with pytest.raises(DlskipError, match="encoder-decoder"):
        backbone.materialise("x", Backbone(source=str(tmp_path / "t5")), tmp_path / "x")
    with pytest.raises(DlskipError, match="encoder-decoder"):
        find_layers(T5ForConditionalGeneration(config))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_lora_starts_as_the_backbone_and_alone_is_trained(family: str, targets: str) -> None:
    model = tiny(family)
    expected = logits(model)
    tuned = tuning.make_trainable(model, tune(r=4, targets=targets))  # type: ignore[arg-type]
    assert torch.equal(logits(tuned), expected)
    names = trained(tuned)
    assert names and all("lora_" in n and "lm_head" not in n for n in names)
    assert any("mlp" in n or ".fc" in n for n in names) == (targets == "all-linear")
    layers = {n.split(".")[i + 1] for n in names for i, part in enumerate(n.split(".")) if part in ("layers", "h")}
    assert layers == {str(i) for i in range(6)}


def test_lora_is_float32_on_a_bfloat16_backbone() -> None:
    tuned = tuning.make_trainable(tiny("llama").to(torch.bfloat16), LORA)
    assert {p.dtype for p in tuning.backbone_parameters(tuned)} == {torch.float32}
    assert logits(tuned).dtype == torch.bfloat16


@pytest.mark.parametrize("family", FOUR_OR_ALL)
@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("skipping", [False, True])
def test_tuned_weights_survive_saving(family: str, mode: str, skipping: bool, tmp_path: Path) -> None:
    model = tuning.make_trainable(tiny(family), tune(mode=mode, r=4))  # type: ignore[arg-type]
    if skipping:
        attach(model, bottleneck=4)
    before = logits(model)
    perturb(tuning.backbone_parameters(model))
    expected = logits(model)
    assert not torch.equal(expected, before)
    tuning.save_tuned(model, tmp_path)
    assert not any(f.suffix in (".bin", ".pt", ".md") for f in tmp_path.iterdir())
    assert torch.equal(logits(tuning.load_tuned(tiny(family), tmp_path)), expected)
    if mode == "lora":  # and PEFT alone can read it, without this package
        assert torch.equal(logits(PeftModel.from_pretrained(tiny(family), str(tmp_path))), expected)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_loaded_weights_are_trained_on_request_only(mode: str, tmp_path: Path) -> None:
    model = tuning.make_trainable(tiny("llama"), tune(mode=mode))  # type: ignore[arg-type]
    tuning.save_tuned(model, tmp_path)
    assert not trained(tuning.load_tuned(tiny("llama"), tmp_path))
    assert trained(tuning.load_tuned(tiny("llama"), tmp_path, trainable=True)) == trained(model)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_weights_of_another_backbone_are_refused(mode: str, tmp_path: Path) -> None:
    with pytest.raises(DlskipError, match="no tuned weights"):
        tuning.load_tuned(tiny("llama"), tmp_path)
    tuning.save_tuned(tuning.make_trainable(tiny("llama"), tune(mode=mode)), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DlskipError, match="another backbone"):
        tuning.load_tuned(tiny("llama", hidden=64), tmp_path)
    if mode == "full":
        with pytest.raises(DlskipError, match="another backbone"):
            tuning.load_tuned(tiny("llama", layers=5), tmp_path)


def test_the_teacher_is_the_saved_model_and_leaves_no_trace(tmp_path: Path) -> None:
    model = tuning.make_trainable(tiny("llama"), LORA)
    perturb(tuning.backbone_parameters(model))
    tuning.save_tuned(model, tmp_path)
    taught = logits(model)
    perturb(tuning.backbone_parameters(model))
    skipper = attach(model, bottleneck=4)
    skipper.requires_grad_(False)
    own, names = logits(model), trained(model)
    tuning.load_teacher(model, tmp_path)
    assert trained(model) == names and torch.equal(logits(model), own)
    with pytest.raises(KeyboardInterrupt), tuning.teacher(model):  # noqa: PT012
        assert torch.equal(logits(model), taught) and not torch.is_grad_enabled()
        raise KeyboardInterrupt
    assert trained(model) == names and torch.equal(logits(model), own)
    assert not any(".teacher." in n for n in names)
    tuning.save_tuned(model, tmp_path / "again")
    assert [f.name for f in (tmp_path / "again").iterdir() if f.is_dir()] == []  # the teacher is not saved along
    assert torch.equal(logits(tuning.load_tuned(tiny("llama"), tmp_path / "again")), own)


def test_a_fully_tuned_backbone_has_no_frozen_teacher(tmp_path: Path) -> None:
    with pytest.raises(DlskipError, match="teacher: self"):
        tuning.load_teacher(tuning.make_trainable(tiny("llama"), tune(mode="full")), tmp_path)


def test_merging_keeps_the_outputs() -> None:
    model = tuning.make_trainable(tiny("llama"), LORA)
    perturb(tuning.backbone_parameters(model))
    expected = logits(model)
    merged = tuning.merged(model)
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)


def test_qlora_runs_trains_and_is_saved(stored: Callable[..., Path], tmp_path: Path) -> None:
    """On CPU too, of any width, and after a pass without a gradient as before it."""
    pytest.importorskip("bitsandbytes")
    spec = Backbone(source=str(stored()), dtype="float32")
    backbone.materialise("q", spec, tmp_path / "models" / "q")
    quantised, _ = backbone.load_backbone("q", spec, tmp_path / "models", quantize=True)
    plain, _ = backbone.load_backbone("q", spec, tmp_path / "models")
    model = tuning.make_trainable(quantised, tune(mode="qlora", r=4)).train()
    parameters = tuning.backbone_parameters(model)
    perturb(parameters)
    gradients = []
    for _ in range(2):
        model.train()(input_ids=IDS, use_cache=False).logits.square().mean().backward()
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
        model.zero_grad()
        logits(model.eval())  # as a measurement on held-out rows
    assert len(gradients[0]) == len(parameters) and all(g.isfinite().all() for g in gradients[0])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert {p.dtype for p in parameters} == {torch.float32}
    assert tuning.merged(model) is model  # 4-bit weights take no LoRA in
    model.eval()
    expected = logits(model)
    tuning.save_tuned(model, tmp_path / "lora")
    assert torch.equal(logits(model), expected)  # saving does not re-round the 4-bit weights
    fresh, _ = backbone.load_backbone("q", spec, tmp_path / "models", quantize=True)
    assert torch.equal(logits(tuning.load_tuned(fresh, tmp_path / "lora")), expected)
    exact = logits(tuning.load_tuned(plain, tmp_path / "lora"))
    assert torch.corrcoef(torch.stack([exact.flatten(), expected.flatten()]))[0, 1] > 0.6  # tiny blocks
