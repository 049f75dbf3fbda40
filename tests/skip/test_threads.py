"""Threads that share a model do not see each other's passes, caches and policies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import torch

import dlskip
from dlskip.errors import DlskipError
from dlskip.inference.decode import decode
from dlskip.skip import Forced, Policy, Threshold, skipper_of
from tests.helpers.published import PROMPTS, publish

SOME = torch.tensor([1, 0, 1, 0, 1, 1], dtype=torch.bool)


@pytest.fixture
def model(request: Any, tmp_path: Path, skipping: Any) -> Any:
    return dlskip.from_pretrained(publish(tmp_path, skipping).artifact, fast=getattr(request, "param", True))


def answer(model: Any, prompt: list[int]) -> list[int]:
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)
    return ids[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [True, False], indirect=True, ids=["fast", "eager"])
def test_requests_at_once_are_answered_as_one_by_one(model: Any) -> None:
    """Each with a policy of its own, or none; some by our own loops, which check the count of layers."""
    skipper = skipper_of(model)

    def ask(number: int) -> list[int]:
        prompt = PROMPTS[number % 4]
        if number % 3 == 1:
            with dlskip.full_depth(model):
                return answer(model, prompt)
        if number % 3 == 2:
            with skipper.using(Forced(SOME), alone=True):
                return decode(model, skipper, [prompt], eos=-1, pad=2, max_new_tokens=8)[0].tokens
        return answer(model, prompt)

    wanted = [ask(number) for number in range(12)]
    start = Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: start.wait(timeout=60), range(4)))  # all threads are there before the first policy
        found = list(pool.map(ask, range(12)))
    assert found == wanted and len({*map(tuple, wanted)}) > 4


def test_a_thread_started_under_another_s_policy_is_refused(model: Any) -> None:
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(answer(model, PROMPTS[0]))
        except DlskipError as error:
            found.append(error.message)

    expected = answer(model, PROMPTS[0])
    for context in (dlskip.full_depth(model), skipper_of(model).disabled()):
        with context:
            thread = Thread(target=ask)
            thread.start()
            thread.join()
        assert "another thread has set a policy" in found.pop()
    thread = Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [expected]


def test_a_policy_that_keeps_a_state_serves_one_thread_at_a_time(model: Any) -> None:
    inside, done = Barrier(2), Barrier(2)

    class Slow(Policy):
        def begin(self, n: int, layers: int, tokens: int, device: torch.device) -> None:
            super().begin(n, layers, tokens, device)
            if tokens == 3:
                inside.wait(timeout=60)
                done.wait(timeout=60)

    skipper_of(model).policy = Slow()
    ids = torch.tensor([[5, 6, 7]])
    thread = Thread(target=lambda: model(input_ids=ids))
    thread.start()
    inside.wait(timeout=60)
    with pytest.raises(DlskipError, match="two threads run passes under one Slow"):
        model(input_ids=ids[:, :2])
    done.wait(timeout=60)
    thread.join()
    assert model(input_ids=ids[:, :2]).logits.isfinite().all()


def test_a_trace_records_its_own_requests(model: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(answer, model, PROMPTS[1]).result()
        with dlskip.trace(model) as report:
            pool.submit(answer, model, PROMPTS[1]).result()
            answer(model, PROMPTS[0])
    assert report.tokens == len(PROMPTS[0]) + 7
    assert torch.equal(skipper_of(model).last.run_matrix(), report.passes[-1].ran[:, 0])
    assert isinstance(skipper_of(model).policy, Threshold)
