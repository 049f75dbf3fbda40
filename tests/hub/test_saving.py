"""What is saved is the model as it is; it loads as nothing else; Transformers' own arguments are taken."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import dlskip
from dlskip.errors import DlskipError
from dlskip.models.tiny import tiny
from dlskip.skip import skipper_of
from tests.helpers.published import Made, generated, logits, names, publish


def trained_on(model: Any) -> Any:
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight += 0.2
    return model


def merged(model: Any) -> Any:
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return get_peft_model(model, config).merge_and_unload()


def resized(model: Any) -> Any:
    model.resize_token_embeddings(400)
    return model


def reordered(model: Any) -> Any:
    embedding = model.get_input_embeddings().weight
    embedding.data = embedding.data.flip(0).contiguous()
    return model


@pytest.mark.parametrize(
    ("change", "lora"), [(trained_on, True), (merged, True), (resized, True), (reordered, True), (resized, False)]
)
def test_a_changed_backbone_is_saved_as_it_is(change: Any, lora: bool, tmp_path: Path, skipping: Any) -> None:
    model: Any = dlskip.from_pretrained(publish(tmp_path, skipping, lora=lora).artifact)
    before = generated(model)
    changed = change(model)
    changed.save_pretrained(tmp_path / "saved")
    again = dlskip.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(changed)) and generated(again) == generated(changed)
    assert change is resized or generated(again) != before
    assert names(tmp_path / "saved") == {"README.md", "dlskip_config.json", "skip.safetensors", "backbone.safetensors"}
    again.save_pretrained(tmp_path / "saved")
    assert generated(dlskip.from_pretrained(tmp_path / "saved")) == generated(changed)


def test_a_model_with_other_parameters_is_refused(saved: Path, tmp_path: Path) -> None:
    model: Any = dlskip.from_pretrained(saved)
    model.model.layers[0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(DlskipError, match=r"model.layers.0.extra.bias is new or gone"):
        model.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_saved_folder_is_no_model_of_transformers(saved: Path, made: Made, tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError)):
        AutoModelForCausalLM.from_pretrained(saved)
    model: Any = dlskip.from_pretrained(saved)
    with pytest.raises(DlskipError, match=r"config.json: another model is there"):
        model.save_pretrained(made.base)
    (tmp_path / "file").write_text("")
    for place in ("file", "file/inside"):
        with pytest.raises(DlskipError, match="file: is a file"):
            model.save_pretrained(tmp_path / place)


def test_folders_of_earlier_versions_are_read_and_tidied(saved: Path) -> None:
    expected = logits(dlskip.from_pretrained(saved))
    for path in (saved / "lora").iterdir():
        path.rename(saved / path.name)
    (saved / "lora").rmdir()
    model: Any = dlskip.from_pretrained(saved)
    assert torch.equal(logits(model), expected)
    model.save_pretrained(saved)
    assert "lora/adapter_config.json" in names(saved) and "adapter_config.json" not in names(saved)
    assert torch.equal(logits(dlskip.from_pretrained(saved)), expected)


def test_transformers_arguments_are_taken(saved: Path, tmp_path: Path) -> None:
    model: Any = dlskip.from_pretrained(saved)
    state: Any = model.state_dict()
    options: dict[str, Any] = {"state_dict": state, "safe_serialization": True, "save_function": torch.save}
    model.save_pretrained(tmp_path / "one", **options, max_shard_size="5GB", push_to_hub=False, token=None)
    assert names(tmp_path / "one") == names(saved)
    model.save_pretrained(tmp_path / "none", is_main_process=False)
    assert not (tmp_path / "none").exists()
    state = {name: x + 1 if name.endswith("up.bias") else x for name, x in model.state_dict().items()}
    model.save_pretrained(tmp_path / "other", state_dict=state)
    stored = load_file(tmp_path / "other" / "skip.safetensors")["layers.2.adapter.up.bias"]
    assert torch.equal(stored, skipper_of(model).layers[2].adapter.up.bias + 1)
    with pytest.raises(DlskipError, match=r"state_dict: has no model.embed_tokens.weight"):
        model.save_pretrained(tmp_path / "part", state_dict={"lm_head.weight": torch.zeros(1)})
    with pytest.raises(DlskipError, match="only safetensors"):
        model.save_pretrained(tmp_path / "pickle", safe_serialization=False)
    with pytest.raises(DlskipError, match="all weights are one file"):
        trained_on(model).save_pretrained(tmp_path / "small", max_shard_size="1KB")


def test_trainer_trains_the_model_and_writes_checkpoints(saved: Path, tmp_path: Path) -> None:
    model: Any = dlskip.from_pretrained(saved)
    for p in [*skipper_of(model).adapters(), model.model.layers[1].mlp.up_proj.weight]:
        p.requires_grad_(True)
    before = generated(model)
    rows = [{"input_ids": torch.arange(5, 13), "labels": torch.arange(5, 13)} for _ in range(4)]
    how = TrainingArguments(
        str(tmp_path / "out"), max_steps=2, save_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        disable_tqdm=True, learning_rate=0.05,
    )  # fmt: skip
    Trainer(model, how, train_dataset=rows).train()
    again = dlskip.from_pretrained(tmp_path / "out" / "checkpoint-2")
    assert generated(again) == generated(model.eval()) != before
    assert generated(dlskip.from_pretrained(tmp_path / "out" / "checkpoint-1")) != generated(again)


def test_the_usual_arguments_load_the_base_model(saved: Path) -> None:
    eager: Any = dlskip.from_pretrained(saved, attn_implementation="eager", local_files_only=True, token=False)
    assert eager.config._attn_implementation == "eager"
    assert dlskip.from_pretrained(saved, torch_dtype="bf16", device_map="cpu").dtype == torch.bfloat16
    assert generated(dlskip.from_pretrained(saved, quantization_config=None, cache_dir=None)) == generated(eager)
    for wrong, said in (
        ({"atn_implementation": "eager"}, r"unknown argument atn_implementation.*\n.*attn_implementation"),
        ({"device": "cpu", "device_map": "cpu"}, "device and device_map"),
        ({"dtype": "banana"}, "unknown dtype 'banana'"),
        ({"dtype": torch.int8}, "unknown dtype"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"attn_implementation": "nonsense"}, "cannot read the base model"),
    ):
        with pytest.raises(DlskipError, match=said):
            dlskip.from_pretrained(saved, **wrong)  # type: ignore[arg-type]
    documented = inspect.getdoc(dlskip.from_pretrained) or ""
    assert all(name in documented for name in inspect.signature(dlskip.from_pretrained).parameters if name != "unknown")


def without_one(tensors: dict[str, Any]) -> None:
    del tensors[sorted(tensors)[3]]


def without_sense(tensors: dict[str, Any]) -> None:
    next(iter(tensors.values())).view(-1)[0] = float("inf")


@pytest.mark.parametrize("change", [without_one, without_sense], ids=lambda f: f.__name__)
@pytest.mark.parametrize("file", ["models/tiny/model", "saved/skip", "saved/lora/adapter_model"])
def test_weights_that_lack_or_are_no_numbers_are_refused(change: Any, file: str, saved: Path) -> None:
    path = saved.parent / f"{file}.safetensors"
    tensors = {name: x.clone() for name, x in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(DlskipError, match=r"missing|lacks|NaN or infinity|another shape"):
        dlskip.from_pretrained(saved)


def test_layers_on_several_devices_are_refused() -> None:
    model: Any = tiny("llama")
    model.model.layers[2].to("meta")
    with pytest.raises(DlskipError, match="several devices"):
        dlskip.skip.attach(model, bottleneck=4)
