"""The folder that a skipping model is saved to and published as: everything but the backbone.

``dlskip_config.json``, ``skip.safetensors`` (adapters and heads), ``lora/`` in PEFT's format (or
``backbone.safetensors`` if all weights were tuned), and ``README.md``, the model card. LoRA lies in a folder of its
own: beside the others, Transformers would take it for all there is, and load the base model with it, bare of skipping.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard, ModelCardData
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from dlskip import __version__
from dlskip.checks import check_finite
from dlskip.errors import DlskipError
from dlskip.files import check_writable, read_json
from dlskip.hub.format import FILES, LORA, LORA_CONFIG, LORA_FOLDER, ReleaseConfig, read_tensors
from dlskip.hub.weights import Fingerprint, backbone_tensors, fingerprints
from dlskip.models.artifact import ADAPTERS
from dlskip.models.packaged import is_packaged
from dlskip.models.tuning import ALL_WEIGHTS
from dlskip.skip import Threshold, skipper_of
from dlskip.skip.stack import NAME

SHIPPED = Path(__file__).parents[1] / "pretrained"  # trained models that come with dlskip, by name
_CARD = Path(__file__).with_name("card.md.j2")


class Release:
    """What a loaded model is saved as; its methods become the model's own.

    LoRA is folded into the model's weights and its adapters run in the backbone's dtype, so both are kept here as they
    were trained, apart from the model's parameters. If the backbone's weights are no longer what they were when it was
    loaded (trained on, merged, resized), all of them are written instead. A PEFT adapter on top, not merged, is not
    part of it: it has its own ``save_pretrained``.

    Args:
        model: The model that ``from_pretrained`` returns.
        config: Its configuration.
        tuned: Folder with the tuned weights: LoRA in PEFT's format, or all of them.
        trained: Adapters and heads as trained, float32, by their names in the ``Skipper``.

    Raises:
        DlskipError: LoRA's files are broken.
    """

    def __init__(self, model: PreTrainedModel, config: ReleaseConfig, tuned: Path, trained: dict[str, Tensor]) -> None:
        self.model = model
        self.config = config
        self.trained = trained
        self.weights: dict[str, Fingerprint] = {}
        full = (tuned / ALL_WEIGHTS).is_file()
        self.lora = None if full else (read_json(tuned / LORA_CONFIG), read_tensors(tuned / LORA))
        if self.lora is not None:
            check_finite(self.lora[1], tuned / LORA)

    def loaded(self) -> None:
        """Notes the backbone's weights as those that the checkpoint stands for."""
        self.weights = fingerprints(backbone_tensors(self.model))

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        dtype: str | torch.dtype | None = None,
        about: str | None = None,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        safe_serialization: bool = True,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Writes adapters, heads, LoRA, configuration and a model card: what ``dlskip.from_pretrained`` reads.

        Of a backbone that was tuned in full, or has changed since it was loaded, all weights are written in the model's
        dtype; otherwise none. Transformers' arguments are taken, so that ``Trainer`` writes checkpoints.

        Examples:
            >>> model.save_pretrained("folder")
            >>> again = dlskip.from_pretrained("folder")

        Args:
            save_directory: Where to write.
            dtype: Of the stored adapters and LoRA; None = as they were read. Heads stay float32.
            about: What the model was trained on, for the model card (Markdown).
            is_main_process: False writes nothing: another process does.
            state_dict: The weights, where those of the model are spread over processes; None or empty = the model's.
            safe_serialization: Must be True.
            max_shard_size: Most bytes of a file, as 10_000 or ``"5GB"``; None = no limit.
            push_to_hub: Also uploads it, to ``repo_id`` of ``options`` or a repository of the folder's name.
            options: ``token``, ``save_function`` and the like are not needed; for ``push_to_hub`` its arguments.

        Raises:
            DlskipError: The folder is a file or holds another model, an argument asks for what is not written, or the
                model has parameters of which ``from_pretrained`` knows nothing.
        """
        folder = Path(save_directory)
        check_folder(folder)
        if not safe_serialization or options.get("variant"):
            raise DlskipError(
                "only safetensors of the usual names are written", where="save_pretrained",
                mend="leave safe_serialization and variant out",
            )  # fmt: skip
        if not is_main_process:
            return
        shipped = folder.resolve().parent == SHIPPED.resolve()
        source = folder.name if shipped else str(save_directory)
        self._write(folder, source, dtype, about, state_dict or None, _bytes(max_shard_size))
        if push_to_hub:
            known = ("private", "token", "revision", "commit_message", "create_pr")
            self.push_to_hub(options.get("repo_id") or folder.name, **{k: options[k] for k in known if k in options})

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
        self, folder: Path, source: str, dtype: str | torch.dtype | None = None, about: str | None = None,
        state: Mapping[str, Tensor] | None = None, most: int | None = None,
    ) -> None:  # fmt: skip
        stored = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        skipper = skipper_of(self.model)
        backbone = backbone_tensors(self.model, state)
        full = self._all_weights(backbone, most)
        now = {n: p.detach() if state is None else state[f"{NAME}.{n}"] for n, p in skipper.named_parameters()}
        now = _on_host(now)
        # A tensor that has not changed since it was loaded and cast is written as it was trained.
        kept = {n: t if torch.equal(t.to(now[n].dtype), now[n]) else now[n].float() for n, t in self.trained.items()}
        heads = {n: t for n, t in kept.items() if ".head." in n}  # small, and what decides
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:  # of an earlier version, or of weights that are written in another way now
            (folder / name).unlink(missing_ok=True)
        save_file(_cast(kept, stored) | heads, folder / ADAPTERS)
        config = self.config.override(dlskip_version=__version__)
        if isinstance(skipper.policy, Threshold):
            price = skipper.policy.price if isinstance(skipper.policy.price, float) else None
            config = config.override(threshold=skipper.policy.threshold, batch_policy=skipper.policy.batch, price=price)
        if self.lora is None or full:
            save_file(_on_host(backbone), folder / ALL_WEIGHTS, metadata={"format": "pt"})
        else:
            peft, tensors = self.lora
            peft = peft | {"base_model_name_or_path": config.base_model, "revision": config.base_revision}
            (folder / LORA_FOLDER).mkdir(exist_ok=True)
            (folder / LORA_FOLDER / LORA_CONFIG).write_text(json.dumps(peft, indent=1, sort_keys=True) + "\n")
            save_file(_cast(tensors, stored), folder / LORA_FOLDER / LORA, metadata={"format": "pt"})
        config.write(folder)
        _card(config, source, self.lora is not None and not full, about).save(folder / "README.md")

    def _all_weights(self, backbone: dict[str, Tensor], most: int | None) -> bool:
        """Whether all of the backbone's weights have to be written, where LoRA alone stood for them so far.

        Raises:
            DlskipError: They cannot be.
        """
        if differing := backbone.keys() ^ self.weights.keys():
            raise DlskipError(
                f"{min(differing)} is new or gone since the model was loaded", where="save_pretrained",
                mend="merge or unload what was put on top; from_pretrained loads nothing but the base model's weights",
            )  # fmt: skip
        changed = self.weights != fingerprints(backbone)
        if changed and getattr(self.model, "is_quantized", False):
            raise DlskipError(
                "the weights of a quantized model have changed", where="save_pretrained", mend="train a PEFT adapter"
            )
        size = sum(x.numel() * x.element_size() for x in backbone.values())
        if (changed or self.lora is None) and most is not None and size > most:
            raise DlskipError(
                f"all weights are one file of {size} bytes", where="max_shard_size", mend="leave it out, or raise it"
            )
        return changed


def check_folder(folder: Path) -> None:
    """Whether a checkpoint can be written into a folder.

    Examples:
        >>> check_folder(Path("published"))

    Raises:
        DlskipError: It is a file, lies in one, may not be written to, or holds a model that Transformers would load in
            its place.
    """
    check_writable(folder)
    if (folder / "config.json").is_file():
        raise DlskipError(
            "another model is there, which Transformers would load instead", where=str(folder / "config.json"),
            mend="name another folder",
        )  # fmt: skip


def _bytes(size: int | str | None) -> int | None:
    """``5GB`` and the like as a number.

    Raises:
        DlskipError: It is none.
    """
    if size is None or isinstance(size, int):
        return size
    found = re.fullmatch(r"(\d+) ?([KMGT]?)(i?)B?", str(size).strip(), re.IGNORECASE)
    if found is None:
        raise DlskipError(f"no size: {size!r}", where="max_shard_size", mend='write "5GB"')
    unit: int = (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ")
    return int(found[1]) * unit


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().cpu().contiguous() for name, x in tensors.items()}


def _cast(tensors: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    return tensors if dtype is None else {name: t.to(dtype) for name, t in tensors.items()}


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
