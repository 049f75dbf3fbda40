"""`dlskip.from_pretrained`: an artifact becomes the model that was trained; saved and loaded, nothing has changed."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import dlskip
from dlskip.errors import DlskipError
from dlskip.hub.pretrained import calibrated
from dlskip.models.tiny import FAMILIES, tiny
from dlskip.skip import Threshold, skipper_of
from tests.helpers.devices import DEVICES
from tests.helpers.published import (
    PROMPTS,
    Made,
    config_of,
    generated,
    logits,
    names,
    publish,
    rewrite,
    runs,
    same_files,
)

LORA = {"lora/adapter_config.json", "lora/adapter_model.safetensors"}
SAVED = {"README.md", "dlskip_config.json", "skip.safetensors", *LORA}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_an_artifact_becomes_the_model_that_was_trained(family: str, lora: bool, tmp_path: Path, skipping: Any) -> None:
    made = publish(tmp_path, skipping, family, lora=lora)
    model = dlskip.from_pretrained(made.artifact, fast=False)
    assert torch.equal(logits(model), logits(made.model)) and torch.equal(runs(model), runs(made.model))
    fast = dlskip.from_pretrained(made.artifact)
    torch.testing.assert_close(logits(fast), logits(model))
    assert torch.equal(runs(fast), runs(model))
    assert runs(model)[:, 1:-1].any() and not runs(model).all()
    assert isinstance(model, PreTrainedModel) and type(model) is type(tiny(family))
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert not any("lora_" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fast", [False, True], ids=["eager", "fast"])
def test_a_left_padded_batch_generates_what_its_rows_do(fast: bool, device: str, made: Made) -> None:
    model = dlskip.from_pretrained(made.artifact, threshold=0.5, device=device, fast=fast)
    together = generated(model)
    assert together == [generated(model, [prompt])[0] for prompt in PROMPTS]
    assert not runs(model).all() and len({tuple(row) for row in together}) == len(PROMPTS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "lora"), [(torch.bfloat16, True), (torch.float32, False)], ids=["lora, bfloat16", "full, float32"]
)
def test_saving_and_loading_changes_no_bit(
    family: str, dtype: torch.dtype, lora: bool, tmp_path: Path, skipping: Any
) -> None:
    made = publish(tmp_path, skipping, family, lora=lora, dtype=dtype, reads="output", kv_fill="project")
    first = dlskip.from_pretrained(made.artifact, threshold=0.4)
    first.save_pretrained(tmp_path / "one")
    second = dlskip.from_pretrained(tmp_path / "one")
    second.save_pretrained(tmp_path / "two")
    assert first.dtype == second.dtype == dtype and {p.dtype for p in skipper_of(second).adapters()} == {dtype}
    assert torch.equal(logits(second), logits(first)) and torch.equal(runs(second), runs(first))
    assert same_files(tmp_path / "one", tmp_path / "two")
    trained = load_file(made.artifact / "skip.safetensors")
    written = load_file(tmp_path / "two" / "skip.safetensors")
    assert {t.dtype for t in written.values()} == {torch.float32}
    assert all(torch.equal(written[name], trained[name]) for name in trained)


def test_stored_in_bfloat16_it_is_half_as_large_and_runs_the_same_adapters(tmp_path: Path, skipping: Any) -> None:
    """On a bfloat16 backbone adapters are cast anyway; heads, which decide, stay as they are. LoRA is rounded."""
    made = publish(tmp_path, skipping, dtype=torch.bfloat16)
    dlskip.release(made.artifact, tmp_path / "whole")
    dlskip.release(made.artifact, tmp_path / "half", dtype="bfloat16", threshold=0.4)
    whole, half = (load_file(tmp_path / name / "skip.safetensors") for name in ("whole", "half"))
    for name, tensor in whole.items():
        same = torch.equal(half[name], tensor if ".head." in name else tensor.bfloat16())
        assert same and half[name].dtype == (torch.float32 if ".head." in name else torch.bfloat16)
    first, second = dlskip.from_pretrained(tmp_path / "whole"), dlskip.from_pretrained(tmp_path / "half")
    pairs = zip(skipper_of(first).named_parameters(), skipper_of(second).parameters(), strict=True)
    assert all(torch.equal(a, b) for (_, a), b in pairs)
    with dlskip.full_depth(first), dlskip.full_depth(second):
        assert (logits(second) - logits(first)).norm() < 0.02 * logits(first).norm()
    second.save_pretrained(tmp_path / "again")
    assert same_files(tmp_path / "half", tmp_path / "again")
    assert config_of(tmp_path / "again")["threshold"] == 0.4


def test_the_backbone_is_not_saved(made: Made, saved: Path) -> None:
    assert names(saved) == SAVED
    stored = sum(t.numel() for t in load_file(made.base / "model.safetensors").values())
    tensors = [load_file(p) for p in saved.rglob("*.safetensors")]
    assert all("lora_" in n or n.startswith("layers.") for part in tensors for n in part)
    assert sum(t.numel() for part in tensors for t in part.values()) < stored / 2
    plain: Any = AutoModelForCausalLM.from_pretrained(made.base)
    PeftModel.from_pretrained(plain, str(saved / "lora"))  # LoRA is in PEFT's own format


def test_the_lines_of_the_card_are_enough(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the model card, as they stand there."""
    card = ModelCard.load(saved / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("dlskip", "text-generation")
    assert "dlskip" in card.data.tags and card.data.base_model is None  # a folder is no hub id
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 4
    exec(code, {})
    assert capsys.readouterr().out.startswith("Once upon a time")


def test_what_is_asked_for_wins_over_what_is_stored(made: Made, saved: Path) -> None:
    rewrite(saved / "dlskip_config.json", threshold=0.3, batch_policy="majority", calibration={"n": 5})
    model = dlskip.from_pretrained(saved)
    skipper = skipper_of(model)
    assert isinstance(skipper.policy, Threshold)
    assert (skipper.policy.threshold, skipper.policy.batch, skipper.kv_fill) == (0.3, "majority", "copy")
    model = dlskip.from_pretrained(saved, threshold=1.0, batch_policy="all", kv_fill="project", device="cpu")
    logits(model)
    assert runs(model).all()
    model.save_pretrained(made.base / "again")
    again = config_of(made.base / "again")
    assert (again["threshold"], again["batch_policy"], again["kv_fill"]) == (1.0, "all", "project")
    assert again["calibration"] == {"n": 5}
    skipper_of(model).policy = Threshold(0.2, "any")
    model.save_pretrained(made.base / "again")
    assert (config_of(made.base / "again")["threshold"], config_of(made.base / "again")["batch_policy"]) == (0.2, "any")
    assert dlskip.from_pretrained(made.artifact, dtype="bfloat16").dtype == torch.bfloat16
    assert skipper_of(dlskip.from_pretrained(made.artifact)).policy.threshold == 0.5


def test_a_calibrated_threshold_is_used_and_stored(saved: Path) -> None:
    model = dlskip.from_pretrained(saved, batch_policy="majority")
    calibrated(model, {"threshold": 0.35, "n": 200, "interval": [0.6, 0.7]})
    model.save_pretrained(saved)
    for each in (model, dlskip.from_pretrained(saved)):
        policy = skipper_of(each).policy
        assert isinstance(policy, Threshold) and (policy.threshold, policy.batch) == (0.35, "majority")
    assert config_of(saved)["calibration"] == {"threshold": 0.35, "n": 200, "interval": [0.6, 0.7]}
    with pytest.raises(DlskipError, match="from_pretrained: threshold"):
        calibrated(model, {"threshold": 2.0})
    with pytest.raises(DlskipError, match=r"no checkpoint\n.*from_pretrained"):
        calibrated(tiny("llama"), {"threshold": 0.5})


def test_what_is_trained_on_is_saved(tmp_path: Path, skipping: Any) -> None:
    """In bfloat16: only the tensor that changed is written as it is now, the others as they were trained."""
    made = publish(tmp_path, skipping, dtype=torch.bfloat16)
    model = dlskip.from_pretrained(made.artifact)
    changed = skipper_of(model).layers[2].adapter.up.bias
    with torch.no_grad():
        changed += 1
    model.save_pretrained(tmp_path / "saved")
    before, after = load_file(made.artifact / "skip.safetensors"), load_file(tmp_path / "saved" / "skip.safetensors")
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"layers.2.adapter.up.bias"}
    assert torch.equal(after["layers.2.adapter.up.bias"], changed.float())
    assert torch.equal(logits(dlskip.from_pretrained(tmp_path / "saved")), logits(model))


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_a_folder_may_change_once_it_is_loaded(lora: bool, tmp_path: Path, skipping: Any) -> None:
    dlskip.release(publish(tmp_path, skipping, lora=lora).artifact, tmp_path / "saved")
    shutil.copytree(tmp_path / "saved", tmp_path / "before")
    model = dlskip.from_pretrained(tmp_path / "saved")
    for name in names(tmp_path / "saved"):
        (tmp_path / "saved" / name).write_text("x")
    model.save_pretrained(tmp_path / "saved")
    assert same_files(tmp_path / "saved", tmp_path / "before")


def test_a_model_may_be_saved_into_its_artifact(made: Made) -> None:
    dlskip.from_pretrained(made.artifact, threshold=1.0).save_pretrained(made.artifact)
    shutil.rmtree(made.artifact / "backbone")
    assert skipper_of(dlskip.from_pretrained(made.artifact)).policy.threshold == 1.0


def test_weights_tuned_in_full_keep_their_own_dtype(tmp_path: Path, skipping: Any) -> None:
    made = publish(tmp_path, skipping, lora=False)
    tiny("llama").to(torch.bfloat16).save_pretrained(made.base)
    assert dlskip.from_pretrained(made.artifact).dtype == torch.float32
    assert torch.equal(logits(dlskip.from_pretrained(made.artifact, fast=False)), logits(made.model))


def test_a_copied_model_saves_its_own_weights(made: Made, tmp_path: Path) -> None:
    model = dlskip.from_pretrained(made.artifact)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        skipper_of(twin).layers[1].adapter.up.bias += 1
    model.save_pretrained(tmp_path / "model")
    twin.save_pretrained(tmp_path / "twin")
    assert same_files(tmp_path / "model", tmp_path / "twin", "skip.safetensors")
    assert torch.equal(logits(dlskip.from_pretrained(tmp_path / "twin")), logits(twin))
    assert torch.equal(logits(dlskip.from_pretrained(tmp_path / "model")), logits(model))


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"], ids=str)
def test_peft_trains_on_top_and_leaves_skipping_working(targets: Any, saved: Path, tmp_path: Path) -> None:
    model = dlskip.from_pretrained(saved)
    expected = logits(model)
    peft: Any = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))  # type: ignore[arg-type]
    torch.testing.assert_close(logits(peft), expected)
    before = {name: p.clone() for name, p in peft.named_parameters()}
    optimizer = torch.optim.SGD([p for p in peft.parameters() if p.requires_grad], lr=1.0)
    ids = torch.randint(3, 300, (3, 8), generator=torch.Generator().manual_seed(0))
    peft.train()
    losses = []
    for _ in range(2):
        loss = peft(input_ids=ids, labels=ids).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    peft.eval()
    assert losses[1] < losses[0]
    moved = {name for name, p in peft.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora_B" in name or "lora_A" in name for name in moved)
    assert not torch.equal(logits(peft), expected) and not runs(peft).all()
    with dlskip.full_depth(peft):
        logits(peft)
    assert runs(peft).all()
    peft.save_pretrained(tmp_path / "adapter")
    model.save_pretrained(tmp_path / "below")  # what the adapter stands on, as it was
    assert same_files(tmp_path / "below", saved)
    again = PeftModel.from_pretrained(dlskip.from_pretrained(tmp_path / "below"), str(tmp_path / "adapter"))
    assert torch.equal(logits(again), logits(peft))


def test_a_fully_tuned_model_saves_its_weights_below_a_peft_adapter(tmp_path: Path, skipping: Any) -> None:
    made = publish(tmp_path, skipping, lora=False)
    model = dlskip.from_pretrained(made.artifact)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))  # type: ignore[arg-type]
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(dlskip.from_pretrained(tmp_path / "saved", fast=False)), logits(made.model))


def test_importing_dlskip_stays_light() -> None:
    code = "import sys, dlskip; print([n for n in ('torch', 'transformers', 'pandas') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"
    assert set(dlskip.__all__) <= set(dir(dlskip)) and all(hasattr(dlskip, name) for name in dlskip.__all__)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = dlskip.absent
