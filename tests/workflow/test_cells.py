"""Packing cells on one machine and gathering them on another."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from dlskip import config
from dlskip.config import Params
from dlskip.errors import DlskipError
from dlskip.report.collect import collect
from dlskip.workflow import cells
from dlskip.workflow.cells import gather, pack
from tests.helpers import default

REPO = Path(__file__).resolve().parents[2]
EMPTY = {
    "rows.csv": "method,backbone,seed,threshold,share,price,batch,split,task,metric,value,skip_ratio,n\n",
    "layers.csv": "method,backbone,seed,threshold,share,price,batch,task,phase,layer,skip_rate,skip_std\n",
}


def grid(seeds: list[int]) -> Params:
    params = config.load_params(default.PARAMS)
    chosen = params.grid.model_copy(update={"seeds": seeds, "methods": ["vanilla", "ours"], "timed": ["ours"]})
    return params.model_copy(update={"grid": chosen})


def make(root: Path, seeds: list[int], said: str = "") -> Path:
    """What `make repro` leaves, as far as the report reads it, and weights beside it."""

    def put(name: str, text: str) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    put("data/manifest.json", json.dumps({"splits": {"entailment/test": {"sha256": "1"}}}))
    put("models/smollm2/config.json", "{}")
    for seed in seeds:
        for method in ("vanilla", "ours"):
            artifact = f"artifacts/{method}/smollm2-{seed}"
            put(f"{artifact}/adapters.safetensors", "weights")
            put(f"{artifact}/curves.csv", "step,metric,value\n")
            put(f"{artifact}/provenance.json", json.dumps({"seed": seed, "said": said}))
            for kind in ("nlu", "mt"):
                for name, text in EMPTY.items():
                    put(f"evaluations/{method}/smollm2-{seed}/{kind}/{name}", text)
                put(f"evaluations/{method}/smollm2-{seed}/{kind}/predictions.jsonl", "")
                put(f"evaluations/{method}/smollm2-{seed}/{kind}/provenance.json", "{}")
    return root


def test_two_machines_make_one_grid(tmp_path: Path) -> None:
    here, there = make(tmp_path / "here", [0]), make(tmp_path / "there", [1])
    pack(grid([1]), there, tmp_path / "seed1.tar.xz")
    with tarfile.open(tmp_path / "seed1.tar.xz") as tar:
        assert not [name for name in tar.getnames() if "safetensors" in name]
    both = grid([0, 1])
    before = {name for name in collect(both, here).missing if name.endswith(("nlu", "mt"))}
    found = gather(tmp_path / "seed1.tar.xz", here)
    assert {name for name in found.came if name.startswith("evaluations")} == before and not found.stayed
    assert not [name for name in collect(both, here).missing if name.startswith("evaluations")]
    assert collect(both, here).provenance["artifacts/ours/smollm2-1"]["seed"] == 1


def test_what_is_there_stays(tmp_path: Path) -> None:
    here, there = make(tmp_path / "here", [0], "here"), make(tmp_path / "there", [0, 1], "there")
    pack(grid([0, 1]), there, tmp_path / "all.tar.xz")
    found = gather(tmp_path / "all.tar.xz", here)
    assert all("smollm2-1" in name for name in found.came) and all("smollm2-0" in name for name in found.stayed)
    assert json.loads((here / "artifacts/ours/smollm2-0/provenance.json").read_text())["said"] == "here"


def test_only_the_grid_is_packed(tmp_path: Path) -> None:
    there = make(tmp_path, [0, 1])
    pack(grid([1]), there, tmp_path / "one.tar.xz")
    with tarfile.open(tmp_path / "one.tar.xz") as tar:
        assert not [name for name in tar.getnames() if "smollm2-0" in name]
    with pytest.raises(DlskipError, match="no cell of this grid"):
        pack(grid([7]), there, tmp_path / "none.tar.xz")


def test_other_data_is_refused(tmp_path: Path) -> None:
    here, there = make(tmp_path / "here", [0]), make(tmp_path / "there", [1])
    (there / "data/manifest.json").write_text(json.dumps({"splits": {"entailment/test": {"sha256": "2"}}}))
    pack(grid([1]), there, tmp_path / "seed1.tar.xz")
    with pytest.raises(DlskipError, match=r"other rows \(entailment/test differs\)"):
        gather(tmp_path / "seed1.tar.xz", here)
    assert not (here / "artifacts/ours/smollm2-1").exists()


@pytest.mark.parametrize(
    "name",
    ["../outside.json", "/etc/passwd", "evaluations/ours/../../x/nlu/rows.csv", "dlskip/workflow/cells.py",
     "artifacts/ours/smollm2-0/adapters.safetensors"],
)  # fmt: skip
def test_anything_else_is_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(DlskipError, match="no part of a cell"):
        gather(tmp_path / "bad.tar.xz", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_broken_archives_and_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.tar.xz").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["cells", "gather", "broken.tar.xz"])
    with pytest.raises(SystemExit, match=r"error: broken\.tar\.xz: cannot be read"):
        cells.main()
    pack(grid([1]), make(tmp_path / "there", [1]), tmp_path / "seed1.tar.xz")
    monkeypatch.setattr("sys.argv", ["cells", "gather", "seed1.tar.xz"])
    cells.main()
    assert "cells came, 0 were here already\nnext: make redraw" in capsys.readouterr().out
