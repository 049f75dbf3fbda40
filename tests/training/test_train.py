"""The training loop: what it trains and what it leaves, how it resumes, and what it refuses."""

from __future__ import annotations

import errno
import json
import math
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from dlskip.config import Train
from dlskip.data.batches import Batch, Batches, Encoded, encode
from dlskip.data.io import Example
from dlskip.errors import DlskipError
from dlskip.models.tiny import tiny_tokenizer
from dlskip.steps.mixer import task_weights
from dlskip.training import checkpoint
from dlskip.training.loop import TrainingRun, finish, learning_rate, total_steps, train
from tests.helpers.effort import further
from tests.helpers.sections import mixer
from tests.training.conftest import STEPS, TRAIN

LENGTHS = [(2 + i % 5, 1 + i % 3) for i in range(12)]


def run_of(tmp_path: Path, examples: Any, **overrides: Any) -> TrainingRun:
    options = {"stage": "any", "config": TRAIN, "examples": examples(*LENGTHS), "pad": 2, "seed": 3, "device": "cpu"}
    return TrainingRun(**options | {"resume": tmp_path / "resume" / "it", "held_out_every": 3} | overrides)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in [*module.named_parameters(), *module.named_buffers()]}


def kill_at(step: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("name", STEPS)
def test_what_is_trained_moves_and_nothing_else_does(name: str, make_step: Any, examples: Any, tmp_path: Path) -> None:
    step = make_step(name)
    before = state(step)
    trained = {n for n, p in step.named_parameters() if p.requires_grad}
    in_groups = {id(p) for group in step.groups() for p in group["params"]}
    assert {id(p) for n, p in step.named_parameters() if n in trained} == in_groups
    train(step, run_of(tmp_path, examples), tmp_path / "out")
    moved = {n for n, t in step.named_parameters() if not torch.equal(t, before[n])}
    assert moved == trained
    kinds = {kind for n in trained for kind in ("lora_", ".adapter.", ".head.") if kind in n}
    expected = {
        "finetune": {"lora_"}, "adapter_init": {".adapter."}, "pretrain_sample": {"lora_", ".adapter."},
        "pretrain_token": {"lora_", ".adapter."}, "mix": {"lora_", ".adapter.", ".head."},
        "mixer": {"lora_", ".adapter.", ".head."},
    }  # fmt: skip
    assert kinds == expected.get(name, {".adapter.", ".head."})
    assert not step.training


@pytest.mark.parametrize("ratio", [1.0, 4.0])
@pytest.mark.parametrize("name", ["finetune", "mixer"])
def test_lora_b_learns_so_many_times_as_fast(
    name: str, ratio: float, make_step: Any, examples: Any, tmp_path: Path
) -> None:
    step = make_step(name)
    before = state(step)
    short = TRAIN.model_copy(update={"steps": 1, "weight_decay": 0.0, "loraplus_lr_ratio": ratio})
    train(step, run_of(tmp_path, examples, config=short), tmp_path / "out")
    rate = short.lr * learning_rate(short, 0, 1)  # AdamW's first step is as long as the learning rate, wherever it goes
    moved = {n: float((t - before[n]).abs().max()) for n, t in step.named_parameters() if "lora_" in n}
    for n, most in moved.items():
        assert most == pytest.approx(rate * (ratio if "lora_B" in n else 1.0), rel=1e-2), n


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(5, 6), *further("killed after steps 5 and 6", [((k,),) for k in range(1, 7)])])
@pytest.mark.parametrize("name", STEPS)
def test_resumed_equals_uninterrupted_bit_for_bit(
    name: str, kills: tuple[int, ...], make_step: Any, examples: Any, tmp_path: Path
) -> None:
    """Killed between checkpoints, which are written every three steps, or right after one, or twice."""
    whole, run = make_step(name), run_of(tmp_path / "a", examples)
    train(whole, run, tmp_path / "a")
    resumed_run = run_of(tmp_path / "b", examples)
    for kill in kills:
        with pytest.raises(KeyboardInterrupt):
            train(make_step(name), resumed_run, tmp_path / "b", on_step=kill_at(kill))
    resumed, finished = make_step(name), []
    train(resumed, resumed_run, tmp_path / "b", on_step=finished.append)
    assert finished == list(range(3 * (kills[-1] // 3) + 1, 8))
    expected = state(whole)
    assert all(torch.equal(t, expected[n]) for n, t in state(resumed).items())
    if name == "ema":
        assert resumed.extra_ema.any()
    if name in ("share", "mix"):
        assert resumed.price.extra_log[0] != pytest.approx(math.log(0.3)), "the price is learnt too"
    curves = [pd.read_csv(tmp_path / d / "curves.csv") for d in "ab"]
    curves = [c[c.metric != "tokens_per_second"].reset_index(drop=True) for c in curves]
    pd.testing.assert_frame_equal(*curves, check_exact=True)
    assert set(curves[0][curves[0].metric == "loss"].step) == set(range(7))
    assert (tmp_path / "a" / "alarms.json").read_text() == (tmp_path / "b" / "alarms.json").read_text()
    live = [pd.read_csv(tmp_path / d / "live" / "metrics" / "loss.tsv", sep="\t") for d in "ab"]
    assert live[0].loss.tolist() == live[1].loss.tolist() and len(live[1]) == 7
    assert resumed_run.resume.exists()
    finish(resumed_run)
    assert not list(resumed_run.resume.parent.iterdir())


def test_another_seed_is_another_run(make_step: Any, examples: Any, tmp_path: Path) -> None:
    ends = []
    for seed in (3, 3, 4):
        step = make_step("rloo")
        train(step, run_of(tmp_path / str(len(ends)), examples, seed=seed), tmp_path / str(len(ends)))
        ends.append(torch.cat([p.flatten() for p in step.parameters() if p.requires_grad]))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


@pytest.fixture
def interrupted(make_step: Any, examples: Any, tmp_path: Path) -> TrainingRun:
    run = run_of(tmp_path, examples)
    with pytest.raises(KeyboardInterrupt):
        train(make_step("adapter_init"), run, tmp_path, on_step=kill_at(4))
    assert json.loads((run.resume / "state.json").read_text())["step"] == 3
    return run


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone", "garbage"])
def test_a_damaged_checkpoint_is_refused(
    name: str, damage: str, interrupted: TrainingRun, make_step: Any, tmp_path: Path
) -> None:
    path = interrupted.resume / name
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "garbage": b"\x80\x04garbage!"}.get(damage, b""))
    if damage == "gone":
        path.unlink()
    step = make_step("adapter_init")
    before = state(step)
    with pytest.raises(DlskipError, match=r"damaged checkpoint.*\n.*delete"):
        train(step, interrupted, tmp_path)
    assert all(torch.equal(t, before[n]) for n, t in state(step).items())


@pytest.mark.parametrize(("name", "family"), [("finetune", "llama"), ("ema", "llama")])
def test_a_checkpoint_of_another_model_is_refused(
    name: str, family: str, interrupted: TrainingRun, make_step: Any, tmp_path: Path
) -> None:
    with pytest.raises(DlskipError, match=r"another model.*\n.*delete"):
        train(make_step(name, family), interrupted, tmp_path)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    """A single value would otherwise be spread over a whole tensor."""
    small, large = nn.Linear(1, 1), nn.Linear(3, 3)
    checkpoint.save(tmp_path / "it", small, torch.optim.AdamW(small.parameters()), 1, [])
    with pytest.raises(DlskipError, match="another model"):
        checkpoint.resume(tmp_path / "it", large, torch.optim.AdamW(large.parameters()))


@pytest.mark.parametrize("failing", ["mkdir", "save_file", "write_text", "limit"])
def test_a_full_disk_leaves_the_previous_checkpoint(
    failing: str,
    interrupted: TrainingRun,
    make_step: Any,
    examples: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever write fails; ``limit`` lets the operating system refuse, as safetensors really sees it."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {f.name: f.read_bytes() for f in interrupted.resume.iterdir()}
    step = make_step("adapter_init")
    optimizer = torch.optim.AdamW(step.groups())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch, pytest.raises(DlskipError, match=r"cannot write.*\n.*free disk space"):  # noqa: PT012
        if failing == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        else:
            owner = checkpoint if failing == "save_file" else Path
            patch.setattr(owner, failing, full)
        try:
            checkpoint.save(interrupted.resume, step, optimizer, 6, [])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {f.name: f.read_bytes() for f in interrupted.resume.iterdir()} == before
    whole = make_step("adapter_init")
    train(whole, run_of(tmp_path / "whole", examples), tmp_path / "whole")
    train(step, interrupted, tmp_path)
    expected = state(whole)
    assert all(torch.equal(t, expected[n]) for n, t in state(step).items())


def test_a_kill_between_the_renames_loses_nothing(interrupted: TrainingRun, make_step: Any) -> None:
    interrupted.resume.rename(interrupted.resume.with_name("it.old"))
    step = make_step("adapter_init")
    assert checkpoint.resume(interrupted.resume, step, torch.optim.AdamW(step.groups()))[0] == 3


@pytest.mark.parametrize("left", ["", ".old", ".new", ".gone"])
def test_what_a_killed_removal_leaves_is_no_checkpoint(
    left: str, interrupted: TrainingRun, make_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder loses its name before its files go, one by one."""

    def killed(path: Path) -> None:
        next(path.iterdir()).unlink()
        raise KeyboardInterrupt

    step = make_step("adapter_init")
    optimizer = torch.optim.AdamW(step.groups())
    if left:
        shutil.copytree(interrupted.resume, interrupted.resume.with_name(f"it{left}"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(shutil, "rmtree", killed)
        checkpoint.clear(interrupted.resume)
    again = checkpoint.resume(interrupted.resume, step, optimizer)[0]
    assert again == (3 if left else 0), "the latest goes last"
    checkpoint.clear(interrupted.resume)
    assert {path.name for path in interrupted.resume.parent.iterdir()} <= {"it.live"}


@pytest.mark.parametrize("what", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_is_found(what: str, interrupted: TrainingRun, make_step: Any, tmp_path: Path) -> None:
    path = interrupted.resume / what
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DlskipError, match=r"damaged checkpoint.*\n.*delete"):
        train(make_step("adapter_init"), interrupted, tmp_path)


def test_weights_that_the_last_update_made_no_numbers_are_not_saved(
    make_step: Any, examples: Any, tmp_path: Path
) -> None:
    config = TRAIN.model_copy(update={"steps": 1, "lr": 1e300})
    with pytest.raises(DlskipError, match=r"any, last step: .* holds NaN or infinity\n.*learning rate"):
        train(make_step("adapter_init"), run_of(tmp_path, examples, config=config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_stops_the_run(make_step: Any, examples: Any, tmp_path: Path) -> None:
    step = make_step("adapter_init")
    with torch.no_grad():
        next(p for p in step.parameters() if p.requires_grad).fill_(math.nan)
    with pytest.raises(DlskipError, match=r"any: loss is nan at step 0\n.*learning rate"):
        train(step, run_of(tmp_path, examples), tmp_path)


def test_the_learning_rate_warms_up_and_decays() -> None:
    def curve(decay: str) -> list[float]:
        config = Train(max_length=1024, steps=10, batch=1, lr=1, warmup=0.2, decay=decay)  # type: ignore[arg-type]
        return [learning_rate(config, step, 10) for step in range(10)]

    assert curve("constant") == [0.5] + [1] * 9
    assert curve("linear") == pytest.approx([0.5, 1] + [1 - i / 8 for i in range(8)])
    assert curve("cosine") == pytest.approx([0.5, 1] + [(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)])
    assert total_steps(Train(max_length=1024, epochs=2, batch=4, lr=1), 11) == 4 and total_steps(TRAIN, 99) == 7


def test_the_task_weight_gives_way_to_the_policy(ragged: Any) -> None:
    batch: Batch = ragged((3, 4), (2, 2))
    base = {"train": TRAIN.model_dump(), "w_start": 1.0, "w_end": 0.2, "head_lr": 1e-2}
    linear = mixer(**base)
    assert [float(task_weights(linear, batch, x)[0]) for x in (0, 0.5, 1)] == pytest.approx([1, 0.6, 0.2])
    suffix = mixer(**base | {"schedule": "mixer", "delta": 1, "stages": 3})
    found = [task_weights(suffix, batch, x).tolist() for x in (0, 0.4, 0.7, 1)]
    assert found == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]


def test_every_epoch_sees_every_example_once_whatever_the_world(examples: Any) -> None:
    rows: list[Encoded] = examples(*LENGTHS)
    alone = Batches(rows, 2, 4, seed=0)
    shares = [Batches(rows, 2, 4, seed=0, rank=r, world=2) for r in range(2)]
    seen = []
    for step in range(alone.per_epoch):
        whole = {_key(line) for line in alone.at(step).input_ids}
        assert whole == {_key(line) for share in shares for line in share.at(step).input_ids}
        seen += whole
    assert sorted(seen) == sorted(tuple(e.prompt + e.target[:-1]) for e in rows)
    assert torch.equal(alone.at(7).input_ids, Batches(rows, 2, 4, seed=0).at(7).input_ids)  # no state
    first = np.concatenate([alone.at(s).targets.numpy() for s in range(3)])
    assert not np.array_equal(first, np.concatenate([alone.at(s).targets.numpy() for s in range(3, 6)]))
    with pytest.raises(DlskipError, match="cannot fill"):
        Batches(rows[:3], 2, 4, seed=0)


def _key(line: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in line if i != 2)


def test_long_prompts_lose_their_beginning() -> None:
    tokenizer = tiny_tokenizer()
    example = Example("1", "any", "is the dog good? yes or no:", "yes")
    whole = encode([example], tokenizer, 512)[0]
    cut = encode([example], tokenizer, len(whole.target) + 3)[0]
    assert cut.prompt == whole.prompt[-4:] and cut.target == whole.target
    assert whole.target[-1] == tokenizer.eos_token_id
    with pytest.raises(DlskipError, match="max_length"):
        encode([example], tokenizer, len(whole.target) - 1)
