"""The trained models that come with dlskip: small, loadable from any folder, and good at what they were trained for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import dlskip
from dlskip.commands.try_ import PROMPTS
from dlskip.hub.release import SHIPPED
from dlskip.inference.watch import watch
from tests.helpers.published import config_of

NAMES = sorted(path.name for path in SHIPPED.glob("*/") if (path / "dlskip_config.json").is_file())
pytestmark = pytest.mark.skipif(not NAMES, reason="none is stored yet: make pretrained")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_complete(name: str) -> None:
    files = [path for path in (SHIPPED / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16e6
    tensors = [t for path in files if path.suffix == ".safetensors" for t in load_file(path).items()]
    assert {t.dtype for n, t in tensors if ".head." not in n} == {torch.bfloat16}
    assert all(t.isfinite().all() for _, t in tensors)
    config = config_of(SHIPPED / name)
    assert not Path(config["base_model"]).is_absolute() and config["base_revision"]
    assert f'from_pretrained("{name}"' in (SHIPPED / name / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_answers_and_skips_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = dlskip.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    judged, english = (watch(model, tokenizer, prompt, repeats=1) for prompt in PROMPTS)
    assert judged[0].text.strip() == "negative"
    assert "house" in english[1].text, "a translation at full depth"
    for skipping, full in (judged, english):
        assert skipping.layers_run < full.layers_run == config_of(SHIPPED / name)["layers"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_loading_it_says_nothing_but_how_far_it_is(name: str, tmp_path: Path) -> None:
    """No remarks of libraries on each other: progress, and one line if the backbone is made first."""
    code = f"import dlskip; print(dlskip.from_pretrained({name!r}).dlskip_release.config.layers)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    said = [line for line in re.split(r"[\r\n]+", done.stderr) if line.strip()]
    assert int(done.stdout) and not [line for line in said if not line.startswith(("Loading weights:", "making "))]
