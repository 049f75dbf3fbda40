"""A pipeline artifact of a tiny model whose adapters, heads and LoRA matter, and the model that it holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlskip.data.batches import left_pad
from dlskip.models import artifact, tuning
from dlskip.models.tiny import tiny, tiny_tokenizer
from dlskip.skip import Threshold, skipper_of

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16], [17]]


@dataclass(frozen=True)
class Made:
    """An artifact, the base model beside it, and the model that was trained: LoRA folded in, thresholded at 0.5."""

    artifact: Path
    base: Path
    model: Any


def publish(
    root: Path, skipping: Any, family: str = "llama", *, lora: bool = True, dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Made:  # fmt: skip
    """Writes ``root/artifacts/ours/tiny-0`` and ``root/models/tiny``; without LoRA the backbone was tuned in full."""
    base, folder = root / "models" / "tiny", root / "artifacts" / "ours" / "tiny-0"
    stored: Any = tiny(family).to(dtype)
    stored.generation_config.eos_token_id = None  # all rows and beams have the same length
    stored.save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    model, skipper = skipping(family, lora=lora, **options)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not lora and "dlskip" not in name:
                p.mul_(1.1)
            if "dlskip" not in name and "lora_" not in name:  # what is trained on the side stays float32
                p.data = p.to(dtype)
    artifact.save(model, folder)
    model = tuning.merged(model)
    model.generation_config.eos_token_id = None
    skipper.cast_adapters(dtype)
    skipper.policy = Threshold(0.5)
    return Made(folder, base, model)


def logits(model: Any, prompts: list[list[int]] = PROMPTS) -> Tensor:
    """(B, T, V) of a left-padded batch."""
    with torch.no_grad():
        found: Tensor = model(**left_pad(prompts, pad=2)).logits
    return found


def generated(model: Any, prompts: list[list[int]] = PROMPTS, new: int = 6, **options: Any) -> list[list[int]]:
    """The new tokens of each row of a left-padded batch."""
    inputs = {name: x.to(model.device) for name, x in left_pad(prompts, pad=2).items()}
    found = model.generate(**inputs, max_new_tokens=new, do_sample=options.pop("do_sample", False), **options)
    return found[:, inputs["input_ids"].shape[1] :].tolist()  # type: ignore[no-any-return]


def runs(model: Any) -> Tensor:
    """The decisions (B, L) of the last pass."""
    last = skipper_of(model).last
    assert last is not None
    return last.run_matrix()


def rewrite(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; None removes one."""
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


def names(folder: Path) -> set[str]:
    """The files of a folder and of those inside."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def config_of(folder: Path) -> Any:
    """The configuration of a saved folder."""
    return json.loads((folder / "dlskip_config.json").read_text())


def same_files(one: Path, other: Path, *changed: str) -> bool:
    """Whether two folders hold the same files, byte for byte but for the card's and the ``changed``."""
    kept = names(one) - {"README.md", *changed}
    return names(one) == names(other) and all((one / n).read_bytes() == (other / n).read_bytes() for n in kept)
