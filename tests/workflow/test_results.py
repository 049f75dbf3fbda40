"""The archive of results: what is packed, that it is the same bytes each time, and that a report is drawn from it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from dlskip.errors import DlskipError
from dlskip.workflow.redraw import draw, redraw
from dlskip.workflow.results import pack
from tests.helpers.report_world import parameters, write_world


@pytest.mark.slow
def test_a_report_is_drawn_from_the_archive_alone(tmp_path: Path) -> None:
    params, here, archive = parameters(methods=["vanilla", "ours"]), tmp_path / "here", tmp_path / "runs.tar.xz"
    write_world(here, params)
    (here / "artifacts/ours/smollm2-0/adapters.safetensors").write_bytes(b"weights")
    (here / "artifacts/ours/smollm2-7").mkdir()
    (here / "artifacts/ours/smollm2-7/curves.csv").write_text("of another grid")
    pack(params, here, archive)
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert "evaluations/ours/smollm2-0/nlu/rows.csv" in names and "artifacts/ours/smollm2-0/curves.csv" in names
    assert not [name for name in names if "safetensors" in name or "smollm2-7" in name]
    first = archive.read_bytes()
    pack(params, here, archive)
    assert archive.read_bytes() == first

    stale = tmp_path / "reports" / "tables" / "stale.md"
    stale.parent.mkdir(parents=True)
    stale.touch()
    draw(params, archive, tmp_path / "reports")
    assert (tmp_path / "reports/index.html").is_file() and (tmp_path / "reports/tables/headline.md").is_file()
    assert not stale.exists()


def test_what_cannot_be_packed_or_read(tmp_path: Path) -> None:
    params, archive = parameters(), tmp_path / "runs.tar.xz"
    with pytest.raises(DlskipError, match="nothing of this grid has been evaluated"):
        pack(params, tmp_path, archive)
    archive.write_bytes(b"nothing")
    with pytest.raises(DlskipError, match=r"runs\.tar\.xz: cannot be read"):
        draw(params, archive, tmp_path)


def test_a_report_without_results_says_what_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DlskipError, match=r"runs\.tar\.xz: nothing has been evaluated yet\n  mend: make repro"):
        redraw(None)
    with pytest.raises(DlskipError, match="no report 'full'"):
        redraw("full")
