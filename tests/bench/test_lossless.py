"""The comparison of lossless decoding with full depth: what it counts, and what it makes of a token that differs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlskip.bench import lossless
from dlskip.bench.lossless import Comparison, by_task, compare
from dlskip.errors import DlskipError
from dlskip.inference.speculative import Speculated
from dlskip.skip import Threshold, skipper_of

PROMPTS = [("a", [5, 6, 7]), ("b", [8, 9]), ("a", [10, 11, 12, 13])]


@pytest.fixture
def model(skipping: Any) -> Any:
    made = skipping("llama")[0]
    skipper_of(made).policy = Threshold(0.5)
    return made


def test_every_prompt_is_decoded_both_ways(model: Any) -> None:
    found = compare(model, PROMPTS, tokens=7, drafts=3, confidence=0.0, pad=2)
    assert [one.task for one in found] == ["a", "b", "a"]
    assert all(one.identical and one.tie is None and one.full > 0 and one.lossless > 0 for one in found)
    table = by_task(found).set_index("task")
    assert table.loc["all", "prompts"] == table.loc["all", "identical"] == 3
    assert table.loc["a", "tokens"] + table.loc["b", "tokens"] == table.loc["all", "tokens"]
    with pytest.raises(DlskipError, match="no prompt"):
        compare(model, [], tokens=7, drafts=3, confidence=0.0, pad=2)


def test_a_token_that_differs_is_found_and_measured(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drafter whose verifier is broken: its second token is another."""
    true = lossless.speculate

    def broken(*arguments: Any, **options: Any) -> Speculated:
        done = true(*arguments, **options)
        done.sequences[0, 4] = (done.sequences[0, 4] + 1) % 100
        return done

    monkeypatch.setattr(lossless, "speculate", broken)
    (one,) = compare(model, PROMPTS[:1], tokens=4, drafts=2, confidence=0.0, pad=2)
    assert not one.identical and one.tie is not None and one.tie > 0
    with torch.no_grad(), skipper_of(model).full_depth():
        out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False, pad_token_id=2)[0]
        logits = model(out[None, :4]).logits[0, -1]
    assert one.tie == pytest.approx(float((logits[out[4]] - logits[(out[4] + 1) % 100]).abs()), rel=1e-4)


def test_speed_up_is_of_the_sums() -> None:
    one = Comparison("t", 10, True, None, full=2.0, lossless=1.0, drafted=8, accepted=6, skipped=0.5)
    other = Comparison("t", 10, False, 0.1, full=1.0, lossless=2.0, drafted=0, accepted=0, skipped=0.0)
    row = by_task([one, other]).set_index("task").loc["all"]
    assert row["speed-up"] == pytest.approx(1.0) and row["identical"] == 1 and row["widest tie"] == pytest.approx(0.1)
    assert row["drafter skipped %"] == pytest.approx(50) and row["accepted %"] == pytest.approx(75)
