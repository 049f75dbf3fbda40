"""The one folder shape of every method: tuned weights, adapters and heads, configuration, provenance.

``artifacts/<method>/<backbone>-<seed>/`` holds ``backbone/`` (LoRA in PEFT's format, or full weights),
``skip.safetensors`` and ``skip.json`` (absent for a model that never skips), curves, alarms and ``provenance.json``.
Only tensors and JSON are read.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dlskip import config, files, provenance
from dlskip.checks import check_finite
from dlskip.errors import DlskipError, offences
from dlskip.models import backbone, tuning
from dlskip.skip import Skipper, attach, skipper_of
from dlskip.skip.stack import causal_lm

ARTIFACTS = Path("artifacts")
ADAPTERS = "skip.safetensors"
INFO = "skip.json"
MEND = "run the stage that writes it: dvc repro"
SAME_AS = "same_as.json"  # of a step that an ablation leaves out: whose weights it goes on with


def directory(method: str, name: str, seed: int, root: Path = ARTIFACTS) -> Path:
    """Where a method's artifact of one backbone and seed lies."""
    return root / method / f"{name}-{seed}"


def device_of(params: config.Params) -> str:
    """``cpu`` or ``cuda`` as the parameters ask; of several processes each gets a device of its own.

    Raises:
        DlskipError: cuda is asked for and absent.
    """
    if params.device == "cuda" and not torch.cuda.is_available():
        raise DlskipError("no CUDA device", where="params.yaml: device", mend="device: cpu")
    if params.device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return "cuda"


def build_model(
    params: config.Params, name: str, *, weights: Path | None, skip: Path | None = None, skipping: bool = True,
    adapters: bool = True,
) -> tuple[nn.Module, PreTrainedTokenizerBase]:  # fmt: skip
    """A model ready to be trained or run.

    Args:
        params: All parameters (the backbone's entry and ``model`` are used).
        name: Backbone.
        weights: Artifact whose tuned backbone weights are loaded; None = fresh (LoRA at zero).
        skip: Artifact whose adapters and heads are loaded; None = fresh ones.
        skipping: False leaves the decoder layers as they are: nothing can be skipped.
        adapters: False wraps the layers without adapters and controllers, for masks that are given.

    Everything is frozen; the caller unfreezes what it trains.
    """
    spec = params.backbones[name]
    device = device_of(params)
    tune = params.model.tune
    model, tokenizer = backbone.load_backbone(name, spec, quantize=tune.mode == "qlora", device=device)
    wrapped: nn.Module = (
        tuning.make_trainable(model, tune) if weights is None else tuning.load_tuned(model, weights / "backbone")
    )
    wrapped.to(device)
    wrapped.requires_grad_(False)
    if skipping:
        skipper = attach(
            wrapped,
            bottleneck=params.model.bottleneck if adapters else 0,
            reads=params.model.controller_reads,
            kv_fill=params.model.kv_fill,
            prices=params.model.prices,
        )
        skipper.to(device).requires_grad_(False)
        if skip is not None:
            load_skip(skipper, skip)
    return wrapped.eval(), tokenizer


def start_weights(params: config.Params, name: str, seed: int) -> Path | None:
    """Tuned backbone weights that our method starts from: the fine-tuned ones, or none (``skip_pretrain.init``)."""
    return directory("vanilla", name, seed) if params.skip_pretrain.init == "finetune" else None


def has_adapters(model: nn.Module) -> bool:
    """Whether adapters and controllers are attached to the model."""
    return hasattr(causal_lm(model), "dlskip") and bool(skipper_of(model).adapters())


def save(model: nn.Module, out: Path) -> None:
    """Writes the tuned weights and, if there are any, the adapters and heads.

    Raises:
        DlskipError: One of them is NaN or infinite.
    """
    out.mkdir(parents=True, exist_ok=True)
    tuning.save_tuned(model, out / "backbone")
    if has_adapters(model):
        skipper = skipper_of(model)
        state = {k: v.contiguous() for k, v in skipper.state_dict().items()}
        check_finite(state, out, "lower the learning rate in params.yaml")
        with files.aside(out / ADAPTERS) as new:
            save_file(state, new)
        info = {
            "layers": skipper.num_layers,
            "bottleneck": skipper.bottleneck,
            "controller_reads": skipper.reads,
            "kv_fill": skipper.kv_fill,
            "prices": skipper.prices,
        }
        files.write_text(out / INFO, json.dumps(info, indent=1) + "\n")


def as_trained(params: config.Params, source: Path) -> config.Params:
    """The parameters with what ``skip.json`` says of an artifact's adapters and controllers.

    Raises:
        DlskipError: It is missing or broken.
    """
    info = files.read_json(source / INFO, MEND)
    known = {name: info.get(name) for name in ("bottleneck", "controller_reads", "kv_fill", "prices")}
    try:
        model = config.Model.model_validate(params.model.model_dump() | known)
    except ValidationError as error:
        raise DlskipError(offences(error, known), where=str(source / INFO), mend=MEND) from error
    return params.model_copy(update={"model": model})


def hand_on(start: Path, out: Path) -> None:
    """Writes an artifact that has no weights of its own: it names those of ``start``, and their hash."""
    out.mkdir(parents=True, exist_ok=True)
    named = {"weights": str(start), "sha256": weights_sha256(start)}
    files.write_text(out / SAME_AS, json.dumps(named, indent=1) + "\n")


def with_weights(directory: Path) -> Path:
    """The artifact itself, or the one that ``hand_on`` named in it.

    Raises:
        DlskipError: The file that names it is broken, or what it names is not there.
    """
    named = directory / SAME_AS
    if not named.is_file():
        return directory
    weights = files.read_json(named, MEND).get("weights")
    if not isinstance(weights, str) or not Path(weights).is_dir():
        raise DlskipError(f"names no artifact: {weights!r:.60}", where=str(named), mend=MEND)
    return Path(weights)


def weights_sha256(directory: Path) -> str:
    """A hash of an artifact's tensors; other files of the folder do not count."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*.safetensors")):
        digest.update(path.relative_to(directory).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load_skip(skipper: Skipper, directory: Path) -> None:
    """Loads adapters and heads; a head without a price input is widened with zeros, so that its output is unchanged.

    Raises:
        DlskipError: They are missing or damaged, not finite, or belong to a model of another shape.
    """
    path = directory / ADAPTERS
    if not path.is_file():
        raise DlskipError("no adapters", where=str(path), mend=MEND)
    provenance.check(directory, ADAPTERS, INFO)
    made = files.read_json(directory / INFO, MEND)
    if (made.get("layers"), made.get("bottleneck")) != (skipper.num_layers, skipper.bottleneck):
        raise DlskipError("says another shape", where=str(directory / INFO), mend="model.bottleneck or the backbone "
                          "changed: dvc repro")  # fmt: skip
    try:
        stored = load_file(path)
        check_finite(stored, path)
        skipper.load_state_dict(_widened(stored, skipper.state_dict()))
    except (OSError, SafetensorError) as error:
        raise DlskipError(f"cannot be read: {error}", where=str(path), mend=MEND) from error
    except (RuntimeError, IndexError) as error:
        raise DlskipError(
            "adapters of another shape", where=str(path), mend="model.bottleneck or the backbone changed: dvc repro"
        ) from error


def _widened(stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors with zeros for the rows that heads of ``wanted`` have beyond theirs."""
    more = {name: len(wanted[name]) - len(x) for name, x in stored.items() if ".head." in name and name in wanted}
    return {
        name: x if more.get(name, 0) <= 0 else torch.cat([x, x.new_zeros(more[name], *x.shape[1:])])
        for name, x in stored.items()
    }
