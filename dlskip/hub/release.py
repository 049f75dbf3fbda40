"""The folder that a skipping model is saved to and published as: everything but the backbone.

``dlskip_config.json``, ``skip.safetensors`` (adapters and heads), LoRA in PEFT's format (or ``backbone.safetensors``
if all weights were tuned), and ``README.md``, the model card.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard, ModelCardData
from pydantic import Field, PositiveFloat, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from dlskip import __version__
from dlskip.config.sections import Section
from dlskip.errors import DlskipError, offences
from dlskip.models.artifact import ADAPTERS
from dlskip.models.packaged import is_packaged
from dlskip.models.tuning import ALL_WEIGHTS
from dlskip.skip import Threshold, skipper_of
from dlskip.skip.policy import BatchPolicy

CONFIG = "dlskip_config.json"
LORA = "adapter_model.safetensors"
LORA_CONFIG = "adapter_config.json"
FILES = (CONFIG, ADAPTERS, LORA, LORA_CONFIG, ALL_WEIGHTS)
SHIPPED = Path(__file__).parents[1] / "pretrained"  # trained models that come with dlskip, by name
_CARD = Path(__file__).with_name("card.md.j2")


class ReleaseConfig(Section):
    """``dlskip_config.json``."""

    format_version: Literal[1] = 1
    dlskip_version: str = __version__
    base_model: str = Field(description="hub id, a packaged model's name, or absolute path of a folder")
    base_revision: str | None = Field(None, description="hub commit of the base model, or SHA-256 of the packaged file")
    layers: int = Field(ge=3, description="L")
    bottleneck: int = Field(ge=1, description="r of the adapters")
    controller_reads: Literal["input", "output"]
    kv_fill: Literal["copy", "project"]
    prices: tuple[PositiveFloat, PositiveFloat] | None = Field(None, description="range of prices trained for")
    threshold: float = Field(0.5, ge=0, le=1)
    price: PositiveFloat | None = Field(None, description="of a layer; null: the middle of the range")
    batch_policy: BatchPolicy = "per_sample"
    calibration: dict[str, Any] = Field({}, description="how the threshold that it names was chosen")

    @classmethod
    def of(cls, values: dict[str, Any], where: str, mend: str | None = None) -> ReleaseConfig:
        """Checks values that come from ``where``.

        Raises:
            DlskipError: A key is missing or unknown, a value out of its range, or the format's version another.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DlskipError(offences(error, cls.model_fields), where=where, mend=mend) from error

    def override(self, **given: Any) -> ReleaseConfig:
        """The same with those arguments that are not None, checked as in ``of``."""
        chosen = {name: value for name, value in given.items() if value is not None}
        return self.of(self.model_dump() | chosen, "from_pretrained")

    def at(self, budget: float) -> ReleaseConfig:
        """The same with the stored setting whose measured share of layers run is nearest to ``budget`` from below.

        Raises:
            DlskipError: None was measured, or none runs so few.
        """
        dial: list[list[float]] = self.calibration.get("dial", [])
        if not dial:
            raise DlskipError(
                "no measurements are stored", where="budget", mend="dlskip calibrate --layers-run ... --save"
            )
        within = [(run, setting) for setting, run in dial if run <= budget + 1e-9]
        if not within:
            raise DlskipError(f"the least that was measured is {min(run for _, run in dial):.3f}", where="budget")
        setting = max(within)[1]
        return self.override(threshold=0.5, price=setting) if self.prices else self.override(threshold=setting)

    def policy(self) -> Threshold:
        """Who decides."""
        return Threshold(self.threshold, self.batch_policy, price=self.price)

    def write(self, folder: Path) -> None:
        """Writes it into a folder."""
        (folder / CONFIG).write_text(self.model_dump_json(indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DlskipError: The file is missing or broken.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DlskipError(f"cannot be read: {error}", where=str(path)) from error
    if not isinstance(found, dict):
        raise DlskipError("no JSON object", where=str(path))
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; copied, not memory-mapped, as the file may be saved over.

    Raises:
        DlskipError: The file is missing or broken.
    """
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise DlskipError(f"cannot be read: {error}", where=str(path)) from error


class Release:
    """What a loaded model is saved as; its methods become the model's own.

    LoRA is folded into the model's weights and its adapters run in the backbone's dtype, so both are kept here as they
    were trained, apart from the model's parameters. Other changes of the backbone's weights are not saved: train them
    as a PEFT adapter, which has its own ``save_pretrained``.

    Args:
        model: The model that ``from_pretrained`` returns.
        config: Its configuration.
        tuned: Folder with the tuned weights: LoRA in PEFT's format, or all of them.
        trained: Adapters and heads as trained, float32, by their names in the ``Skipper``.
    """

    def __init__(self, model: PreTrainedModel, config: ReleaseConfig, tuned: Path, trained: dict[str, Tensor]) -> None:
        self.model = model
        self.config = config
        self.trained = trained
        full = (tuned / ALL_WEIGHTS).is_file()
        self.lora = None if full else (read_json(tuned / LORA_CONFIG), read_tensors(tuned / LORA))

    def save_pretrained(
        self, save_directory: str | Path, *, dtype: str | torch.dtype | None = None, about: str | None = None
    ) -> None:
        """Writes adapters, heads, LoRA, configuration and a model card: what ``dlskip.from_pretrained`` reads.

        Of a backbone that was tuned in full all weights are written, in the model's dtype; otherwise none.

        Examples:
            >>> model.save_pretrained("folder")
            >>> again = dlskip.from_pretrained("folder")

        Args:
            save_directory: Where to write.
            dtype: Of the stored adapters and LoRA; None = as they were read. Heads stay float32.
            about: What the model was trained on, for the model card (Markdown).
        """
        folder = Path(save_directory)
        shipped = folder.resolve().parent == SHIPPED.resolve()
        self._write(folder, folder.name if shipped else str(save_directory), dtype, about)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | bool | None = None,
        revision: str | None = None, commit_message: str = "Upload dlskip model", create_pr: bool = False,
    ) -> CommitInfo:  # fmt: skip
        """Uploads the folder that ``save_pretrained`` writes to the Hugging Face hub.

        Examples:
            >>> model.push_to_hub("me/my-skipping-model", private=True)  # doctest: +SKIP

        Args:
            repo_id: ``name`` or ``organisation/name``; the repository is created if there is none.
            private: Whether a repository that is created is private.
            token: A hub token; None = the one stored by ``hf auth login``.
            revision: An existing branch; None = the main one.
            commit_message: First line of the commit's message.
            create_pr: Open a pull request instead.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: The hub refuses.
        """
        api = HfApi(token=token)
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self._write(Path(folder), name)
            return api.upload_folder(
                repo_id=name, folder_path=folder, revision=revision, commit_message=commit_message, create_pr=create_pr
            )

    def _write(
        self, folder: Path, source: str, dtype: str | torch.dtype | None = None, about: str | None = None
    ) -> None:
        stored = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        folder.mkdir(parents=True, exist_ok=True)
        skipper = skipper_of(self.model)
        now = _parameters(skipper)
        # A tensor that has not changed since it was loaded and cast is written as it was trained.
        kept = {n: t if torch.equal(t.to(now[n].dtype), now[n]) else now[n].float() for n, t in self.trained.items()}
        heads = {n: t for n, t in kept.items() if ".head." in n}  # small, and what decides
        save_file(_cast(kept, stored) | heads, folder / ADAPTERS)
        config = self.config.override(dlskip_version=__version__)
        if isinstance(skipper.policy, Threshold):
            price = skipper.policy.price if isinstance(skipper.policy.price, float) else None
            config = config.override(threshold=skipper.policy.threshold, batch_policy=skipper.policy.batch, price=price)
        if self.lora is None:
            full = {n: p for n, p in _parameters(self.model).items() if "dlskip" not in n}
            save_file(full, folder / ALL_WEIGHTS, metadata={"format": "pt"})
        else:
            peft, tensors = self.lora
            peft = peft | {"base_model_name_or_path": config.base_model, "revision": config.base_revision}
            (folder / LORA_CONFIG).write_text(json.dumps(peft, indent=1, sort_keys=True) + "\n")
            save_file(_cast(tensors, stored), folder / LORA, metadata={"format": "pt"})
        config.write(folder)
        _card(config, source, self.lora is not None, about).save(folder / "README.md")


def _cast(tensors: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    return tensors if dtype is None else {name: t.to(dtype) for name, t in tensors.items()}


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters by name, on the CPU, also where a LoRA on top has wrapped its layers."""
    found = ((n.replace(".base_layer", ""), p) for n, p in module.named_parameters() if "lora_" not in n)
    return {n: p.detach().cpu().contiguous() for n, p in found}


def _card(config: ReleaseConfig, source: str, lora: bool, about: str | None) -> ModelCard:
    made = is_packaged(config.base_model)
    base = None if made or Path(config.base_model).is_absolute() else config.base_model
    data = ModelCardData(
        base_model=base, library_name="dlskip", pipeline_tag="text-generation",
        tags=["dlskip", "layer-skipping", "dynamic-depth", *(["lora"] if lora else [])],
    )  # fmt: skip
    card: ModelCard = ModelCard.from_template(
        data,
        str(_CARD),
        title=Path(source).name,
        source=source,
        config=config,
        hub_base=base,
        lora=lora,
        made=made,
        about=about,
    )
    return card
