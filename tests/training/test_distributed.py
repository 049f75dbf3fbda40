"""Two processes: each takes its share of every batch, and the result is that of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dlskip.config import Train
from dlskip.data.batches import Encoded
from dlskip.models import tuning
from dlskip.models.tiny import tiny
from dlskip.skip import attach
from dlskip.steps.pretrain import Pretrain
from dlskip.steps.supervised import Supervised
from dlskip.training.loop import Step, TrainingRun, train
from tests.helpers.sections import skip_pretrain, tune

TRAIN = Train(max_length=1024, steps=5, batch=4, lr=1e-2, weight_decay=0.0, log_every=1)


def step_of(name: str) -> Step:
    torch.manual_seed(0)
    model = tuning.make_trainable(tiny("llama", layers=4), tune(r=4))
    if name == "finetune":
        return Supervised(model, tuning.backbone_parameters(model))
    attach(model, bottleneck=8)
    model.requires_grad_(False)
    config = {"train": TRAIN.model_dump(), "teacher": "self", "p": 0.9, "p_draw": "fixed", "p_warmup": 0}
    return Pretrain(model, skip_pretrain(**config))


def main(name: str, out: Path) -> None:
    step = step_of(name)
    examples = [Encoded([3 + i, 4, 5 + i], [6 + i, 1], "any") for i in range(12)]
    if train(step, TrainingRun("any", TRAIN, examples, 2, 0, "cpu", out / "resume" / "it"), out):
        trained = {n: p.detach().contiguous() for n, p in step.named_parameters() if p.requires_grad}
        save_file(trained, out / "trained.safetensors")


def launch(name: str, out: Path, world: int) -> dict[str, torch.Tensor]:
    out.mkdir()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = []
    for rank in range(world):
        several = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
        if world > 1:
            environment |= {k: str(v) for k, v in several.items()} | {"MASTER_PORT": str(port)}
        command = [sys.executable, __file__, name, str(out)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return load_file(out / "trained.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetune", "pretrain"])
def test_two_processes_train_as_one(name: str, tmp_path: Path) -> None:
    """Equal weights for a loss without draws; with random masks, training runs although layers go unused."""
    two = launch(name, tmp_path / "two", 2)
    if name == "finetune":
        one = launch(name, tmp_path / "one", 1)
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, atol=2e-5, rtol=1e-3)
    before = {n: p.detach() for n, p in step_of(name).named_parameters() if p.requires_grad}
    assert all(torch.isfinite(v).all() for v in two.values())
    assert sum(not torch.equal(before[k], v) for k, v in two.items()) > 0.9 * len(two)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
