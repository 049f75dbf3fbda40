"""The base model of a checkpoint: where it is, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from dlskip.checks import check_complete, reading
from dlskip.errors import DlskipError
from dlskip.files import read_json
from dlskip.hub.format import LORA_CONFIG, ReleaseConfig
from dlskip.models.packaged import is_packaged, packaged
from dlskip.skip.stack import find_layers

MEND_BASE = "name the base model: from_pretrained(..., backbone=folder or hub id)"
_SHORT = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}


def dtype_named(dtype: str | torch.dtype) -> str | torch.dtype:
    """``auto``, or a dtype of floating-point numbers by its name or usual short form.

    Examples:
        >>> dtype_named("bf16")
        torch.bfloat16

    Raises:
        DlskipError: There is none of that name.
    """
    if dtype == "auto":
        return dtype
    found = getattr(torch, _SHORT.get(dtype, dtype).removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise DlskipError(f"unknown dtype {dtype!r}", where="dtype", mend="auto, float32, bfloat16 or float16")
    return found


def device_named(device: str | torch.device | None) -> torch.device | None:
    """A device that is there; None = not said.

    Raises:
        DlskipError: It is unknown, or not there.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise DlskipError(f"no device {str(device)!r}: {said}", where="device", mend="cpu, or cuda if it is") from error
    return found


@dataclass(frozen=True)
class Loading:
    """How a base model is loaded, besides from where.

    Args:
        dtype, device, trust_remote_code: As of ``dlskip.from_pretrained``.
        token, cache_dir, local_files_only: Of the hub's client.
        attn_implementation, device_map, quantization_config: Of Transformers' own ``from_pretrained``.
    """

    dtype: str | torch.dtype = "auto"
    device: torch.device | None = None
    trust_remote_code: bool = False
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    attn_implementation: str | None = None
    device_map: Any = None
    quantization_config: Any = None

    @property
    def hub(self) -> dict[str, Any]:
        """The options of the hub's client."""
        given = {"token": self.token, "cache_dir": self.cache_dir, "local_files_only": self.local_files_only}
        return {name: value for name, value in given.items() if value}

    def as_stored(self, weights: Path) -> Loading:
        """The same in the dtype that a file of weights has, where none is asked for."""
        if self.dtype != "auto" or not weights.is_file():
            return self
        with reading("the tuned weights", weights, MEND_BASE), safe_open(weights, framework="pt") as tensors:
            return replace(self, dtype=tensors.get_tensor(next(iter(tensors.keys()))).dtype)


def named(source: str | Path, revision: str | None = None) -> dict[str, str | None]:
    """A base model as the configuration names it: folders by absolute path, so that none is taken for a hub id."""
    path = Path(source)
    return {"base_model": str(path.resolve() if path.is_dir() else source), "base_revision": revision}


def of_artifact(artifact: Path) -> dict[str, str | None]:
    """The base model of a pipeline artifact ``artifacts/<method>/<name>-<seed>``.

    Raises:
        DlskipError: It is not where the workflow puts it.
    """
    artifact = artifact.resolve()
    stored = artifact.parent.parent.parent / "models" / artifact.name.rpartition("-")[0]
    lora = artifact / "backbone" / LORA_CONFIG
    noted = read_json(lora).get("base_model_name_or_path") if lora.is_file() else None
    for path in (noted and Path(noted), stored):
        if path and (path / "config.json").is_file():
            return named(path)
    if (stored / "source.json").is_file():  # points elsewhere
        info = read_json(stored / "source.json")
        return named(info["source"], info["revision"])
    raise DlskipError(f"no base model in {stored}", where=str(artifact), mend=MEND_BASE)


def made_from(artifact: Path) -> str | None:
    """The packaged model that an artifact's backbone was made from, which others can make too; None for any other."""
    artifact = artifact.resolve()
    noted = artifact.parent.parent.parent / "models" / artifact.name.rpartition("-")[0] / "source.json"
    source = read_json(noted).get("source") if noted.is_file() else None
    return source if isinstance(source, str) and is_packaged(source) else None


def load_base(config: ReleaseConfig, how: Loading) -> tuple[ReleaseConfig, PreTrainedModel]:
    """The backbone, and the configuration with its hub revision pinned to a commit.

    Raises:
        DlskipError: It is not there, lacks weights, or is of another depth.
    """
    source, revision = config.base_model, config.base_revision
    if is_packaged(source):
        wanted = how.dtype if isinstance(how.dtype, torch.dtype) else None
        folder, revision = packaged(source, dtype=wanted, fingerprint=revision, device=str(how.device or "cpu"))
        source = str(folder)
    if Path(source).is_absolute() and not Path(source).is_dir():
        raise DlskipError("the base model is not there", where=source, mend=MEND_BASE)
    given = {
        name: getattr(how, name)
        for name in ("attn_implementation", "device_map", "quantization_config")
        if getattr(how, name) is not None
    }
    with reading("the base model", source, MEND_BASE):
        if not Path(source).is_dir():
            revision = HfApi().resolve_revision(source, revision=revision, **how.hub).resolved
        said: Any = AutoConfig.from_pretrained(
            source, revision=revision, trust_remote_code=how.trust_remote_code, **how.hub
        )
        _check_depth(said.get_text_config(decoder=True).num_hidden_layers, config, source)  # before it is built
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=how.dtype, use_safetensors=True, output_loading_info=True,
            trust_remote_code=how.trust_remote_code, **how.hub, **given,
        )  # fmt: skip
    model, info = loaded
    check_complete(info, source)
    _check_depth(len(find_layers(model)[2]), config, source)
    return config.override(base_revision=revision), model if how.device is None else model.to(how.device)


def _check_depth(found: int, config: ReleaseConfig, source: str) -> None:
    if found != config.layers:
        raise DlskipError(
            f"the base model has {found} layers, the adapters are for {config.layers}", where=source, mend=MEND_BASE
        )
