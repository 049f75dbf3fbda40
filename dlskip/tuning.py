"""How a backbone's weights are trained: LoRA, LoRA on 4-bit NF4 (QLoRA), or all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from dlskip.backbone import find_layers
from dlskip.config import Tune
from dlskip.errors import DlskipError

TEACHER = "teacher"
_FULL = "backbone.safetensors"


def _targets(model: nn.Module, which: str) -> list[str]:
    """Names of the linear modules inside the decoder layers (never the LM head), as PEFT matches them."""
    _, _, layers = find_layers(model)
    names = []
    for name, module in layers[0].named_modules():
        linear = isinstance(module, (nn.Linear, Conv1D)) or type(module).__name__ == "Linear4bit"
        if linear and not name.startswith("dlskip") and (which == "all-linear" or "att" in name):
            names.append(name)
    return sorted({n.split(".")[-1] if n.count(".") == 0 else ".".join(n.split(".")[-2:]) for n in names})


def add(model: nn.Module, tune: Tune) -> nn.Module:
    """Makes the backbone trainable as ``tune`` says; with LoRA, B starts at zero and the outputs stay the same.

    Adapter weights are float32 whatever the backbone's dtype.
    """
    if tune.mode == "full":
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return model
    config = LoraConfig(
        r=tune.r, lora_alpha=tune.alpha, lora_dropout=tune.dropout, target_modules=_targets(model, tune.targets),
        task_type="CAUSAL_LM", fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
    )  # fmt: skip
    return get_peft_model(model, config)  # type: ignore[arg-type]


def backbone_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What is trained of the backbone: the active LoRA weights, or everything but skipping's own."""
    if isinstance(model, PeftModel):
        return [p for n, p in model.named_parameters() if "lora_" in n and f".{TEACHER}." not in n]
    return [p for n, p in model.named_parameters() if "dlskip" not in n]


def save(model: nn.Module, directory: Path) -> None:
    """Writes LoRA in PEFT's own format (readable by ``PeftModel.from_pretrained``), or all backbone weights."""
    if isinstance(model, PeftModel):
        model.save_pretrained(str(directory), selected_adapters=["default"])
        (directory / "README.md").unlink(missing_ok=True)  # a template that says nothing
        return
    directory.mkdir(parents=True, exist_ok=True)
    state = {n: p.detach().contiguous() for n, p in model.named_parameters() if "dlskip" not in n}
    save_file(state, directory / _FULL, metadata={"format": "pt"})


def load(model: nn.Module, directory: Path, *, trainable: bool = False) -> nn.Module:
    """Puts what ``save`` wrote onto a fresh backbone."""
    if (directory / _FULL).is_file():
        missing = model.load_state_dict(load_file(directory / _FULL), strict=False).unexpected_keys
        if missing:
            raise DlskipError(f"weights of another backbone: {missing[0]}", where=str(directory))
        return model.requires_grad_(trainable)
    if not (directory / "adapter_config.json").is_file():
        raise DlskipError("no tuned weights", where=str(directory), mend="run the stage that writes them: dvc repro")
    return PeftModel.from_pretrained(model, str(directory), is_trainable=trainable)  # type: ignore[arg-type]


def load_teacher(model: nn.Module, directory: Path) -> None:
    """Adds a second, frozen LoRA adapter: the fine-tuned model, as a teacher in the same memory."""
    if not isinstance(model, PeftModel):
        raise DlskipError(
            "a frozen teacher needs LoRA", where="skip_pretrain.teacher", mend="tune.mode lora|qlora, or teacher: self"
        )
    model.load_adapter(str(directory), adapter_name=TEACHER, is_trainable=False)
    model.set_adapter("default")


@contextmanager
def teacher(model: Any) -> Iterator[None]:
    """Runs the enclosed forwards with the teacher's LoRA; without gradients."""
    trained = [p for p in model.parameters() if p.requires_grad]
    model.base_model.set_adapter(TEACHER)
    try:
        with torch.no_grad():
            yield
    finally:
        model.base_model.set_adapter("default")
        model.requires_grad_(False)
        for p in trained:
            p.requires_grad_(True)
