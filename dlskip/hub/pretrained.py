"""``dlskip.from_pretrained``: a skipping model, its backbone included, that is a Transformers model like any other."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import PreTrainedModel

from dlskip.checks import check_finite, reading
from dlskip.errors import DlskipError
from dlskip.fast import use_fast_path
from dlskip.files import nearest, read_json
from dlskip.hub.base import (
    MEND_BASE,
    Loading,
    device_named,
    dtype_named,
    load_base,
    made_from,
    named,
    of_artifact,
)
from dlskip.hub.format import CONFIG, FILES, LORA_FOLDER, ReleaseConfig, read_tensors
from dlskip.hub.release import SHIPPED, Release
from dlskip.hub.weights import backbone_tensors, resized_as_stored
from dlskip.models import tuning
from dlskip.models.artifact import ADAPTERS
from dlskip.skip import attach, skipper_of
from dlskip.skip.policy import BatchPolicy

_ARTIFACT = "skip.json"  # marks a pipeline artifact that skips
_MEND_HUB = "a folder, or a hub id that you may read (`hf auth login`, HF_HUB_OFFLINE unset)"


def from_pretrained(
    folder_or_id: str | Path,
    *,
    threshold: float | None = None,
    price: float | None = None,
    budget: float | None = None,
    batch_policy: BatchPolicy | None = None,
    kv_fill: Literal["copy", "project"] | None = None,
    backbone: str | Path | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    fast: bool = True,
    compile: bool = False,
    attn_implementation: str | None = None,
    device_map: Any = None,
    quantization_config: Any = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    torch_dtype: str | torch.dtype | None = None,
    **unknown: Any,
) -> PreTrainedModel:
    """Loads a skipping model with its backbone, for ``generate()``, pipelines, PEFT and all that takes a model.

    LoRA is folded into the weights, and the adapters run in the backbone's dtype. All parameters are frozen, and the
    model is in evaluation mode. ``dlskip.hub.release.Release`` documents its ``save_pretrained`` and ``push_to_hub``.

    Examples:
        >>> import dlskip
        >>> from transformers import AutoTokenizer
        >>> model = dlskip.from_pretrained("smollm2-135m", threshold=0.5)
        >>> tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
        >>> inputs = tokenizer("Der Hund sieht das Haus.\\nEnglish:", return_tensors="pt")
        >>> print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
        Der Hund sieht das Haus.
        English:...

    Args:
        folder_or_id: Folder or hub id that ``save_pretrained`` or ``push_to_hub`` wrote, a pipeline artifact that
            skips (``artifacts/ours/smollm2-0``), or the name of a model that comes with dlskip (``smollm2-135m``).
        threshold: Skip a layer if its controller's probability exceeds this; 1 skips none. None = the checkpoint's,
            else 0.5.
        price: Price of a layer (lambda), for controllers conditioned on the price; a higher price skips more. None =
            the checkpoint's, else the middle of their range.
        budget: Share of layers to run: takes the threshold or the price that ``dlskip calibrate`` found for it.
        batch_policy: Who decides in a batch (see ``dlskip.skip.Threshold``). None = the checkpoint's, else
            ``per_sample``.
        kv_fill: Keys and values of skipped layers (docs/method.md §6). None = as trained.
        backbone: Folder or hub id of the base model, or a name that ``dlskip.models.packaged`` makes (``smollm2``).
            None = what the checkpoint names; for an artifact, what its LoRA names if that is a folder, or
            ``models/<name>`` next to ``artifacts/``.
        revision: Branch, tag or commit of a hub id.
        dtype: Of the model; ``auto`` = as its weights are stored.
        device: None = the CPU.
        trust_remote_code: Whether code in the base model's repository may run.
        fast: Use the fast path if the family has one (``dlskip.fast``); False = always Transformers' own forward pass.
        compile: Decode a single row on a CPU through compiled code. It is faster, but needs a C++ compiler, and about a
            minute when a model of this shape is first loaded on this machine. On CUDA, decode up to 32 rows through
            recorded graphs.
        attn_implementation, device_map, quantization_config: Of the base model, as of Transformers' own
            ``from_pretrained``. All layers must come to lie on one device. On a quantized one LoRA is kept apart.
        token, cache_dir, local_files_only: Of the hub's client, for checkpoint and base model.
        torch_dtype: The former name of ``dtype``.

    Raises:
        DlskipError: Something is missing, broken, out of its range, no number, or belongs to another backbone; an
            argument is unknown.
    """
    for name in unknown:
        close = get_close_matches(name, inspect.signature(from_pretrained).parameters, 1)
        mend = (
            f"did you mean {close[0]}?" if close else "load the base model yourself, and pass its folder as backbone="
        )
        raise DlskipError(f"unknown argument {name}", where="from_pretrained", mend=mend)
    if device is not None and device_map is not None:
        raise DlskipError("device and device_map both say where", where="from_pretrained", mend="give one")
    if compile and not fast:
        raise DlskipError("only the fast path is compiled", where="from_pretrained", mend="fast=True, or no compile")
    how = Loading(
        dtype_named(dtype if torch_dtype is None else torch_dtype), device_named(device), trust_remote_code, token,
        cache_dir, local_files_only, attn_implementation, device_map, quantization_config,
    )  # fmt: skip
    folder = _folder(folder_or_id, revision, how.hub)
    config = _config(folder, backbone)
    config = config.override(threshold=threshold, price=price, batch_policy=batch_policy, kv_fill=kv_fill)
    if budget is not None:
        if threshold is not None or price is not None:
            raise DlskipError("a budget chooses threshold and price itself", where="from_pretrained", mend="give one")
        config = config.at(budget)
    tuned = _tuned(folder)
    config, model = load_base(config, how.as_stored(tuned / tuning.ALL_WEIGHTS))
    with reading("the tuned weights", tuned, MEND_BASE):
        resized_as_stored(model, tuned)
        merged: Any = tuning.merged(tuning.load_tuned(model, tuned))
    trained = read_tensors(folder / ADAPTERS)
    check_finite(trained, folder / ADAPTERS)
    release = Release(merged, config, tuned, trained)
    check_finite(backbone_tensors(merged), config.base_model)
    skipper = attach(
        merged, bottleneck=config.bottleneck, reads=config.controller_reads, kv_fill=config.kv_fill,
        prices=config.prices,
    )  # fmt: skip
    skipper.scaled(config.price)  # refuses one outside the range
    try:
        skipper.load_state_dict(trained)
    except RuntimeError as error:
        raise DlskipError("adapters of another shape", where=str(folder / ADAPTERS), mend=MEND_BASE) from error
    skipper.cast_adapters(merged.dtype)
    skipper.policy = config.policy()
    merged.requires_grad_(False).eval()
    if fast:
        use_fast_path(merged, compile=compile)
    release.loaded()
    merged.dlskip_release = release
    merged.save_pretrained, merged.push_to_hub = release.save_pretrained, release.push_to_hub
    loaded: PreTrainedModel = merged
    return loaded


def release(
    artifact: str | Path,
    folder: str | Path,
    *,
    backbone: str | Path | None = None,
    threshold: float | None = None,
    dtype: str | torch.dtype | None = None,
    about: str | None = None,
) -> None:
    """Turns a pipeline artifact into a folder to publish (errors: see ``from_pretrained``).

    Others can load the folder without naming a backbone, if the backbone is a hub id or a packaged model.

    Args:
        artifact: What the workflow trained, as for ``from_pretrained``.
        folder: Where to write.
        backbone: As for ``from_pretrained``; None = also the packaged model that the workflow made it from.
        threshold: The threshold to store; None = the artifact's, else 0.5.
        dtype: Of the stored adapters and LoRA; None = as trained (float32). Heads stay float32.
        about: What the model was trained on, for the model card (Markdown).

    Examples:
        >>> dlskip.release("artifacts/ours/smollm2-0", "published", dtype="bfloat16")
        >>> model = dlskip.from_pretrained("published", threshold=0.4)
    """
    model: Any = from_pretrained(artifact, backbone=backbone or made_from(Path(artifact)), threshold=threshold)
    model.save_pretrained(folder, dtype=dtype, about=about)


def calibrated(model: nn.Module, calibration: dict[str, Any]) -> None:
    """Makes a calibrated threshold (and price) the model's own: it runs with it, and saves it with how it was found.

    Examples:
        >>> calibrated(model, {"threshold": 0.4, "n": 100})
        >>> skipper_of(model).policy.threshold
        0.4

    Args:
        model: What ``from_pretrained`` returned.
        calibration: ``threshold`` (and ``price``), and how they were found; anything that JSON can hold.

    Raises:
        DlskipError: The model was not loaded by ``from_pretrained``, or the threshold is no probability.
    """
    found = getattr(model, "dlskip_release", None)
    if not isinstance(found, Release):
        raise DlskipError("this model has no checkpoint", where="calibrated", mend="load it by dlskip.from_pretrained")
    skipper = skipper_of(model)
    chosen = {name: calibration.get(name) for name in ("threshold", "price")}
    found.config = found.config.override(**chosen, calibration=calibration)
    skipper.policy = found.config.policy()


def plain(model: nn.Module) -> None:
    """Takes skipping off a model from ``from_pretrained``: what is left is its backbone, with LoRA folded in.

    Examples:
        >>> plain(model)
        >>> hasattr(model, "dlskip")
        False

    Raises:
        DlskipError: No layer skipping is attached to ``model``.
    """
    skipper_of(model).detach_from(model)
    for name in ("save_pretrained", "push_to_hub", "dlskip_release"):  # of the checkpoint; now the class's own
        vars(model).pop(name, None)


def full_depth(model: nn.Module) -> AbstractContextManager[None]:
    """Skips nothing in the enclosed forwards; adapters stay on.

    Examples:
        >>> with dlskip.full_depth(model):
        ...     tokens = model.generate(**inputs, max_new_tokens=20)

    Raises:
        DlskipError: No layer skipping is attached to ``model``.
    """
    return skipper_of(model).full_depth()


def _folder(folder_or_id: str | Path, revision: str | None, hub: dict[str, Any]) -> Path:
    if Path(folder_or_id).is_dir():
        if revision is not None:
            raise DlskipError("a folder has no revisions", where=str(folder_or_id), mend="leave revision out")
        return Path(folder_or_id)
    shipped = {path.name: path for path in SHIPPED.iterdir() if path.is_dir()} if SHIPPED.is_dir() else {}
    if str(folder_or_id) in shipped:
        return shipped[str(folder_or_id)]
    mend = "; ".join([_MEND_HUB, *(f"dlskip brings {name}" for name in shipped)])
    if Path(folder_or_id).is_absolute() or str(folder_or_id).count("/") > 1 or Path(folder_or_id).exists():
        close = nearest(Path(folder_or_id))
        raise DlskipError("no such folder", where=str(folder_or_id), mend=f"did you mean {close}?" if close else mend)
    with reading("the model", folder_or_id, mend):
        return Path(snapshot_download(str(folder_or_id), revision=revision, allow_patterns=list(FILES), **hub))


def _tuned(folder: Path) -> Path:
    """Where a checkpoint keeps its tuned weights: apart, so that Transformers does not take it for a LoRA alone."""
    if not (folder / CONFIG).is_file():
        return folder / "backbone"
    return (
        folder
        if (folder / tuning.ALL_WEIGHTS).is_file() or not (folder / LORA_FOLDER).is_dir()
        else folder / LORA_FOLDER
    )


def _config(folder: Path, backbone: str | Path | None) -> ReleaseConfig:
    base = None if backbone is None else named(backbone)
    if (path := folder / CONFIG).is_file():
        return ReleaseConfig.of(read_json(path) | (base or {}), str(path), "a newer dlskip may read it")
    if (path := folder / _ARTIFACT).is_file():
        return ReleaseConfig.of(read_json(path) | (base or of_artifact(folder)), str(path), "dvc repro")
    raise DlskipError(
        f"neither {CONFIG} nor {_ARTIFACT}", where=str(folder),
        mend="a folder that save_pretrained wrote, or a pipeline artifact that skips",
    )  # fmt: skip
