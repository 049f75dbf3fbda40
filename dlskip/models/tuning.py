"""How a backbone's weights are trained: LoRA, LoRA on 4-bit NF4 (QLoRA), or all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from dlskip import files, provenance
from dlskip.checks import check_finite
from dlskip.config import Tune
from dlskip.errors import DlskipError
from dlskip.models import lora
from dlskip.skip.stack import find_layers

TEACHER = "teacher"
ALL_WEIGHTS = "backbone.safetensors"  # of a backbone that is tuned in full
_MEND_RATE = "lower the learning rate in params.yaml"
_MEND = "get the file again, or run the stage that writes it: dvc repro"


def _targets(model: nn.Module, which: str) -> list[str]:
    """Names of the linear modules inside the decoder layers (never the LM head), as PEFT matches them.

    Raises:
        DlskipError: There is none.
    """
    _, _, layers = find_layers(model)
    names = []
    for name, module in layers[0].named_modules():
        linear = isinstance(module, (nn.Linear, Conv1D)) or type(module).__name__ == "Linear4bit"
        if linear and (which == "all-linear" or "att" in name):
            names.append(".".join(name.split(".")[-2:]))
    if not names:
        raise DlskipError(f"no {which} modules in {type(layers[0]).__name__}", where="model.tune.targets")
    return sorted(names)


def make_trainable(model: nn.Module, tune: Tune) -> nn.Module:
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
    tuned: nn.Module = get_peft_model(model, _computed(config, model))
    return tuned


def backbone_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What is trained of the backbone: the active LoRA weights, or everything but skipping's own."""
    if isinstance(model, PeftModel):
        return [p for n, p in model.named_parameters() if "lora_" in n and f".{TEACHER}." not in n]
    return [p for n, p in model.named_parameters() if "dlskip" not in n]


def save_tuned(model: nn.Module, directory: Path) -> None:
    """Writes LoRA in PEFT's own format (readable by ``PeftModel.from_pretrained``), or all backbone weights.

    Raises:
        DlskipError: One of them is NaN or infinite.
    """
    if isinstance(model, PeftModel):
        # Only the LoRA tensors are handed over: state_dict() of a 4-bit model re-packs its weights on CPU, which
        # rounds them; and nothing of the embeddings was trained, which PEFT would ask the hub about.
        state = {n: p for n, p in model.named_parameters() if "lora_" in n}
        check_finite(state, directory, _MEND_RATE)
        with files.aside(directory) as new:
            model.save_pretrained(
                str(new), selected_adapters=["default"], state_dict=state, save_embedding_layers=False
            )
            (new / "README.md").unlink(missing_ok=True)  # a template that says nothing
            written = new / "adapter_config.json"
            config = json.loads(written.read_text())
            config["target_modules"] = sorted(config["target_modules"])  # a set, written in another order each time
            written.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        return
    state = {n: p.detach().contiguous() for n, p in model.named_parameters() if "dlskip" not in n}
    check_finite(state, directory, _MEND_RATE)
    with files.aside(directory) as new:
        new.mkdir()
        save_file(state, new / ALL_WEIGHTS, metadata={"format": "pt"})


def load_tuned(model: nn.Module, directory: Path, *, trainable: bool = False) -> nn.Module:
    """Puts what ``save_tuned`` wrote onto a fresh backbone.

    Raises:
        DlskipError: Nothing was saved there, it is damaged or not finite, or it belongs to another backbone.
    """
    provenance.check(directory.parent, f"{directory.name}/*.safetensors")  # of an artifact that a stage has finished
    try:
        if (directory / ALL_WEIGHTS).is_file():
            state = load_file(directory / ALL_WEIGHTS)
            check_finite(state, directory / ALL_WEIGHTS, _MEND)
            if differing := state.keys() ^ {n for n, _ in model.named_parameters() if "dlskip" not in n}:
                raise DlskipError(f"weights of another backbone: {min(differing)}", where=str(directory))
            model.load_state_dict(state, strict=False)  # tied and skipping's own tensors are not in the file
            return model.requires_grad_(trainable)
        # Both are asked for: PEFT would look for a missing file in a pickle, then on the hub.
        if not all((directory / name).is_file() for name in ("adapter_config.json", "adapter_model.safetensors")):
            raise DlskipError(
                "no tuned weights", where=str(directory), mend="run the stage that writes them: dvc repro"
            )
        stored = load_file(directory / "adapter_model.safetensors")
        check_finite(stored, directory / "adapter_model.safetensors", _MEND)
        config = _computed(lora.read_config(directory / "adapter_config.json"), model)
        tuned: nn.Module = PeftModel.from_pretrained(model, str(directory), config=config, is_trainable=trainable)
        wanted = {n.replace(".default.", ".") for n, _ in tuned.named_parameters() if "lora_" in n}
        if lacking := wanted - stored.keys():  # PEFT starts them afresh, with a remark
            raise DlskipError(f"LoRA lacks {min(lacking)}", where=str(directory), mend="get the file again")
        return tuned
    except SafetensorError as error:
        raise DlskipError(f"cannot read the tuned weights: {error}", where=str(directory), mend=_MEND) from error
    except RuntimeError as error:  # tensors of other shapes
        raise DlskipError("weights of another backbone", where=str(directory), mend="dvc repro") from error


def load_teacher(model: nn.Module, directory: Path) -> None:
    """Adds a second, frozen LoRA adapter: the fine-tuned model, as a teacher in the same memory.

    Raises:
        DlskipError: The backbone is tuned in full, so that its first weights are gone.
    """
    if not isinstance(model, PeftModel):
        raise DlskipError(
            "a frozen teacher needs LoRA", where="skip_pretrain.teacher", mend="tune.mode lora|qlora, or teacher: self"
        )
    with _keeping_trained(model):
        model.load_adapter(str(directory), adapter_name=TEACHER, is_trainable=False)


@contextmanager
def teacher(model: Any) -> Iterator[None]:
    """Runs the enclosed forwards with the teacher's LoRA; without gradients."""
    with _keeping_trained(model), torch.no_grad():
        model.base_model.set_adapter(TEACHER)
        yield


@contextmanager
def _keeping_trained(model: Any) -> Iterator[None]:
    """Ends with the trained LoRA active and ``requires_grad`` as before: PEFT's switching changes both."""
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        model.base_model.set_adapter("default")
        model.requires_grad_(False)
        for p in trained:
            p.requires_grad_(True)


def merged(model: nn.Module) -> nn.Module:
    """The model as it is deployed: LoRA folded into the weights (kept apart on a 4-bit backbone)."""
    if not isinstance(model, PeftModel) or _is_quantized(model):
        return model
    whole: nn.Module = model.merge_and_unload()
    return whole


def _is_quantized(model: nn.Module) -> bool:
    return any(type(m).__name__ == "Linear4bit" for m in model.modules())


def _computed(config: LoraConfig, model: nn.Module) -> LoraConfig:
    """The configuration, with LoRA computed in the backbone's dtype where there are plain linears."""
    return config if _is_quantized(model) else lora.with_fast_linears(config)
