"""Where `dlskip.from_pretrained` finds a model and its backbone: folders and the hub; what is wrong is said clearly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file, save_file

import dlskip
from dlskip.errors import DlskipError
from dlskip.models.tiny import tiny
from dlskip.skip import skipper_of
from tests.helpers.published import Made, config_of, logits, publish, rewrite, same_files


def test_the_base_model_is_found_where_the_artifact_says(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora, beside = made.artifact / "backbone" / "adapter_config.json", made.base
    expected = logits(dlskip.from_pretrained(made.artifact))
    moved = beside.rename(tmp_path / "elsewhere")
    with pytest.raises(DlskipError, match=r"no base model.*\n.*backbone="):
        dlskip.from_pretrained(made.artifact)
    rewrite(lora, base_model_name_or_path=str(moved))
    assert torch.equal(logits(dlskip.from_pretrained(made.artifact)), expected)
    rewrite(lora, base_model_name_or_path="some/model")
    beside.mkdir()
    (beside / "source.json").write_text(json.dumps({"source": str(moved), "revision": None}))
    assert torch.equal(logits(dlskip.from_pretrained(made.artifact)), expected)
    shutil.rmtree(beside)
    monkeypatch.chdir(tmp_path)
    model = dlskip.from_pretrained(made.artifact, backbone="elsewhere")
    assert torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path / "saved")
    assert config_of(tmp_path / "saved")["base_model"] == str(moved)
    again = moved.rename(tmp_path / "again")
    with pytest.raises(DlskipError, match=r"not there\n.*backbone="):
        dlskip.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(dlskip.from_pretrained(tmp_path / "saved", backbone=again)), expected)


def test_a_packaged_backbone_is_named_and_made_where_the_model_is_loaded(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLSKIP_CACHE", str(tmp_path / "cache"))
    expected = logits(made.model)
    (made.base / "source.json").write_text(json.dumps({"source": "tiny-llama", "revision": None}))
    dlskip.release(made.artifact, tmp_path / "saved", about="Nothing but *noise*.")
    assert config_of(tmp_path / "saved")["base_model"] == "tiny-llama"
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "Nothing but *noise*." in card and "`tiny-llama` is made on first use" in card
    for gone in (made.base, made.artifact, tmp_path / "cache"):
        shutil.rmtree(gone)
    monkeypatch.chdir("/")
    model = dlskip.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(model), expected)
    assert Path(model.name_or_path).is_relative_to(tmp_path / "cache")
    assert dlskip.from_pretrained(tmp_path / "saved", dtype="bfloat16").dtype == torch.bfloat16


def test_a_model_that_comes_with_dlskip_is_found_by_its_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pretrained", "release"):
        monkeypatch.setattr(f"dlskip.hub.{module}.SHIPPED", saved.parent)
    assert skipper_of(dlskip.from_pretrained("saved")).num_layers == 6
    with pytest.raises(DlskipError, match="dlskip brings saved"):
        dlskip.from_pretrained("no-such/model")
    dlskip.from_pretrained(saved).save_pretrained(saved)
    assert 'from_pretrained("saved"' in (saved / "README.md").read_text()


def to_hub_cache(cache: Path, repo: str, folder: Path, commit: str) -> None:
    """Lays a folder out as the hub's client leaves a download."""
    root = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, root / "snapshots" / commit)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)


def test_model_and_base_come_from_the_hub_and_the_base_is_pinned(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, from the hub client's own cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit, newer = "a" * 40, "b" * 40
    to_hub_cache(tmp_path / "hub", "some/base", made.base, commit)
    dlskip.release(made.artifact, tmp_path / "saved", backbone="some/base")
    assert (config_of(tmp_path / "saved")["base_model"], config_of(tmp_path / "saved")["base_revision"]) == (
        "some/base", commit,
    )  # fmt: skip
    assert ModelCard.load(tmp_path / "saved" / "README.md").data.base_model == "some/base"
    peft = json.loads((tmp_path / "saved" / "lora" / "adapter_config.json").read_text())
    assert (peft["base_model_name_or_path"], peft["revision"]) == ("some/base", commit)
    to_hub_cache(tmp_path / "hub", "some/skipping", tmp_path / "saved", commit)
    other = tiny("llama", seed=1)  # the base model's main branch moves on
    other.save_pretrained(tmp_path / "other")
    to_hub_cache(tmp_path / "hub", "some/base", tmp_path / "other", newer)
    shutil.rmtree(made.base)
    torch.testing.assert_close(logits(dlskip.from_pretrained("some/skipping")), logits(made.model))
    rewrite(tmp_path / "saved" / "dlskip_config.json", threshold=1.0)
    to_hub_cache(tmp_path / "hub", "some/skipping", tmp_path / "saved", newer)
    for revision, threshold in ((commit, 0.5), (newer, 1.0)):
        assert skipper_of(dlskip.from_pretrained("some/skipping", revision=revision)).policy.threshold == threshold
    with pytest.raises(DlskipError, match=r"some/absent: cannot read.*\n.*hub id"):
        dlskip.from_pretrained("some/absent")
    with pytest.raises(DlskipError, match=r"some/absent: cannot read the base model.*\n.*backbone="):
        dlskip.from_pretrained("some/skipping", backbone="some/absent")


def test_pushing_uploads_what_saving_writes(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def create(_: HfApi, repo_id: str, **options: Any) -> Any:
        calls.append((repo_id, options))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload(_: HfApi, **options: Any) -> str:
        shutil.copytree(options.pop("folder_path"), tmp_path / "uploaded")
        calls.append(options)
        return "the commit"

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model = dlskip.from_pretrained(saved)
    assert model.push_to_hub("skipping", private=True, revision="next") == "the commit"
    assert calls[0] == ("skipping", {"private": True, "exist_ok": True})
    assert calls[1] | {"commit_message": ""} == {
        "repo_id": "me/skipping", "revision": "next", "commit_message": "", "create_pr": False,
    }  # fmt: skip
    assert same_files(tmp_path / "uploaded", saved)
    assert 'from_pretrained("me/skipping"' in (tmp_path / "uploaded" / "README.md").read_text()


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def holding(text: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(text)


def with_keys(**changes: Any) -> Callable[[Path], Any]:
    return lambda path: rewrite(path, **changes)


def of_another(family: str = "llama", **options: Any) -> Callable[[Path], Any]:
    return lambda folder: emptied(folder) or tiny(family, **options).save_pretrained(folder)


CONFIG, ADAPTERS, BASE = "saved/dlskip_config.json", "saved/skip.safetensors", "models/tiny"
BROKEN: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "gone": ("saved", shutil.rmtree, r"no such folder.*\n.*a folder, or a hub id"),
    "empty": ("saved", emptied, r"neither dlskip_config.json nor skip.json"),
    "no JSON": (CONFIG, holding("{"), r"dlskip_config.json: cannot be read"),
    "a list": (CONFIG, holding("[]"), r"dlskip_config.json: no JSON object"),
    "unknown key": (CONFIG, with_keys(treshold=1), r"treshold.*did you mean `threshold`"),
    "newer": (CONFIG, with_keys(format_version=2), r"format_version.*\n.*newer dlskip"),
    "no layers": (CONFIG, with_keys(layers=None), r"layers: is missing"),
    "bottleneck": (CONFIG, with_keys(bottleneck=4), r"adapters of another shape"),
    "no adapters": (ADAPTERS, Path.unlink, r"skip.safetensors: cannot be read"),
    "no tensors": (ADAPTERS, holding("x"), r"skip.safetensors: cannot be read"),
    "no LoRA": ("saved/lora/adapter_model.safetensors", Path.unlink, r"no tuned weights"),
    "no base": (BASE, shutil.rmtree, r"the base model is not there\n.*backbone="),
    "no base weights": (f"{BASE}/model.safetensors", Path.unlink, r"cannot read the base model.*\n.*backbone="),
    "depth": (BASE, of_another(layers=5), r"base model has 5 layers, the adapters are for 6"),
    "width": (BASE, of_another(hidden=64), r"weights of another backbone"),
    "family": (BASE, of_another("gpt2"), r"cannot read the tuned weights.*\n.*backbone="),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_wrong_is_said_in_one_sentence(how: str, saved: Path) -> None:
    place, breaking, message = BROKEN[how]
    breaking(saved.parent / place)
    with pytest.raises(DlskipError, match=message):
        dlskip.from_pretrained(saved)


@pytest.mark.parametrize(
    "options", [{"threshold": 1.5}, {"threshold": float("nan")}, {"batch_policy": "most"}, {"kv_fill": "zero"}], ids=str
)
def test_options_out_of_range_are_refused(options: Any, saved: Path) -> None:
    (name,) = options
    with pytest.raises(DlskipError, match=f"from_pretrained: {name}"):
        dlskip.from_pretrained(saved, **options)


def test_an_artifact_that_never_skips_is_refused(made: Made) -> None:
    for name in ("skip.json", "skip.safetensors"):
        (made.artifact / name).unlink()
    with pytest.raises(DlskipError, match=r"neither.*\n.*artifact that skips"):
        dlskip.from_pretrained(made.artifact)


def test_full_weights_that_are_broken_are_refused(tmp_path: Path, skipping: Any) -> None:
    made = publish(tmp_path, skipping, lora=False)
    path = made.artifact / "backbone" / "backbone.safetensors"
    tensors = {name: t.clone() for name, t in load_file(path).items()}
    path.write_text("x")
    with pytest.raises(DlskipError, match="cannot read the tuned weights"):
        dlskip.from_pretrained(made.artifact)
    save_file({f"other.{name}": t for name, t in tensors.items()}, path)
    with pytest.raises(DlskipError, match="weights of another backbone"):
        dlskip.from_pretrained(made.artifact)
