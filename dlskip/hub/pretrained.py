"""``dlskip.from_pretrained``: a skipping model, its backbone included, that is a Transformers model like any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RevisionResolutionError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from dlskip.errors import DlskipError
from dlskip.fast import use_fast_path
from dlskip.hub.release import CONFIG, FILES, LORA_CONFIG, SHIPPED, Release, ReleaseConfig, read_json, read_tensors
from dlskip.models import tuning
from dlskip.models.artifact import ADAPTERS
from dlskip.models.packaged import is_packaged, packaged
from dlskip.skip import attach, skipper_of
from dlskip.skip.policy import BatchPolicy
from dlskip.skip.stack import find_layers

_ARTIFACT = "skip.json"  # marks a pipeline artifact that skips
_MEND_BASE = "name the base model: from_pretrained(..., backbone=folder or hub id)"
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

    Raises:
        DlskipError: Something is missing, broken, out of its range, or belongs to another backbone.
    """
    if compile and not fast:
        raise DlskipError("only the fast path is compiled", where="from_pretrained", mend="fast=True, or no compile")
    folder = _folder(folder_or_id, revision)
    config = _config(folder, backbone)
    config = config.override(threshold=threshold, price=price, batch_policy=batch_policy, kv_fill=kv_fill)
    if budget is not None:
        if threshold is not None or price is not None:
            raise DlskipError("a budget chooses threshold and price itself", where="from_pretrained", mend="give one")
        config = config.at(budget)
    tuned = folder if (folder / CONFIG).is_file() else folder / "backbone"
    if dtype == "auto" and (tuned / tuning.ALL_WEIGHTS).is_file():
        dtype = _stored_dtype(tuned / tuning.ALL_WEIGHTS)
    config, model = _load_base(config, dtype, device, trust_remote_code)
    with _reading("the tuned weights", tuned, _MEND_BASE):
        merged: Any = tuning.merged(tuning.load_tuned(model, tuned))
    trained = read_tensors(folder / ADAPTERS)
    skipper = attach(
        merged, bottleneck=config.bottleneck, reads=config.controller_reads, kv_fill=config.kv_fill,
        prices=config.prices,
    )  # fmt: skip
    skipper.scaled(config.price)  # refuses one outside the range
    try:
        skipper.load_state_dict(trained)
    except RuntimeError as error:
        raise DlskipError("adapters of another shape", where=str(folder / ADAPTERS), mend=_MEND_BASE) from error
    skipper.cast_adapters(merged.dtype)
    skipper.policy = config.policy()
    merged.requires_grad_(False).eval()
    if fast:
        use_fast_path(merged, compile=compile)
    release = Release(merged, config, tuned, trained)
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
    model: Any = from_pretrained(artifact, backbone=backbone or _made_from(Path(artifact)), threshold=threshold)
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


@contextmanager
def _reading(what: str, where: str | Path, mend: str) -> Iterator[None]:
    """Libraries' errors about what cannot be found or does not fit, in one form."""
    try:
        yield
    except (OSError, ValueError, SafetensorError, RevisionResolutionError) as error:
        first = str(error).partition("\n")[0]
        raise DlskipError(f"cannot read {what}: {first}", where=str(where), mend=mend) from error


def _folder(folder_or_id: str | Path, revision: str | None) -> Path:
    if Path(folder_or_id).is_dir():
        return Path(folder_or_id)
    shipped = {path.name: path for path in SHIPPED.iterdir() if path.is_dir()} if SHIPPED.is_dir() else {}
    if str(folder_or_id) in shipped:
        return shipped[str(folder_or_id)]
    mend = "; ".join([_MEND_HUB, *(f"dlskip brings {name}" for name in shipped)])
    with _reading("the model", folder_or_id, mend):
        return Path(snapshot_download(str(folder_or_id), revision=revision, allow_patterns=list(FILES)))


def _config(folder: Path, backbone: str | Path | None) -> ReleaseConfig:
    base = None if backbone is None else _base(backbone)
    if (path := folder / CONFIG).is_file():
        return ReleaseConfig.of(read_json(path) | (base or {}), str(path), "a newer dlskip may read it")
    if (path := folder / _ARTIFACT).is_file():
        return ReleaseConfig.of(read_json(path) | (base or _base_of(folder)), str(path), "dvc repro")
    raise DlskipError(
        f"neither {CONFIG} nor {_ARTIFACT}", where=str(folder),
        mend="a folder that save_pretrained wrote, or a pipeline artifact that skips",
    )  # fmt: skip


def _base(source: str | Path, revision: str | None = None) -> dict[str, str | None]:
    """A base model as the configuration names it: folders by absolute path, so that none is taken for a hub id."""
    path = Path(source)
    return {"base_model": str(path.resolve() if path.is_dir() else source), "base_revision": revision}


def _base_of(artifact: Path) -> dict[str, str | None]:
    """The base model of a pipeline artifact ``artifacts/<method>/<name>-<seed>``."""
    artifact = artifact.resolve()
    stored = artifact.parent.parent.parent / "models" / artifact.name.rpartition("-")[0]
    lora = artifact / "backbone" / LORA_CONFIG
    named = read_json(lora).get("base_model_name_or_path") if lora.is_file() else None
    for path in (named and Path(named), stored):
        if path and (path / "config.json").is_file():
            return _base(path)
    if (stored / "source.json").is_file():  # points elsewhere
        info = read_json(stored / "source.json")
        return _base(info["source"], info["revision"])
    raise DlskipError(f"no base model in {stored}", where=str(artifact), mend=_MEND_BASE)


def _made_from(artifact: Path) -> str | None:
    """The packaged model that an artifact's backbone was made from, which others can make too; None for any other."""
    noted = artifact.resolve().parents[2] / "models" / artifact.resolve().name.rpartition("-")[0] / "source.json"
    source = read_json(noted).get("source") if noted.is_file() else None
    return source if isinstance(source, str) and is_packaged(source) else None


def _load_base(
    config: ReleaseConfig, dtype: str | torch.dtype, device: str | torch.device | None, trust_remote_code: bool
) -> tuple[ReleaseConfig, PreTrainedModel]:
    """The backbone, and the configuration with its hub revision pinned to a commit."""
    source, revision = config.base_model, config.base_revision
    if is_packaged(source):
        wanted = dtype if isinstance(dtype, torch.dtype) else None if dtype == "auto" else getattr(torch, dtype)
        folder, revision = packaged(source, dtype=wanted, fingerprint=revision, device=str(device or "cpu"))
        source = str(folder)
    if Path(source).is_absolute() and not Path(source).is_dir():
        raise DlskipError("the base model is not there", where=source, mend=_MEND_BASE)
    with _reading("the base model", source, _MEND_BASE):
        if not Path(source).is_dir():
            revision = HfApi().resolve_revision(source, revision=revision).resolved
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    found = len(find_layers(model)[2])
    if found != config.layers:
        raise DlskipError(
            f"the base model has {found} layers, the adapters are for {config.layers}", where=source, mend=_MEND_BASE
        )
    return config.override(base_revision=revision), model if device is None else model.to(device)


def _stored_dtype(path: Path) -> torch.dtype:
    with _reading("the tuned weights", path, _MEND_BASE), safe_open(path, framework="pt") as tensors:
        found: torch.dtype = tensors.get_tensor(next(iter(tensors.keys()))).dtype
        return found
