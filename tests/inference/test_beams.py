"""Beam search of an evaluation: it is that of `generate()`, and its account of the layers is that of each beam."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlskip.data.batches import left_pad
from dlskip.errors import DlskipError
from dlskip.inference.beams import beam_search
from dlskip.inference.decode import decode
from dlskip.skip import Forced, Threshold
from dlskip.skip.passes import Pass
from tests.helpers.effort import FOUR_OR_ALL

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]
EOS, PAD, NEW = 1, 2, 6


def searched(model: Any, skipper: Any, **options: Any) -> Any:
    return beam_search(model, skipper, PROMPTS, **{"beams": 3, "eos": EOS, "pad": PAD, "max_new_tokens": NEW} | options)


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_it_is_the_search_of_generate(family: str, skipping: Any) -> None:
    """Of all prompts in one batch, whose beams do not touch each other; other answers than greedy decoding gives."""
    model, skipper = skipping(family)
    with skipper.using(Threshold(0.5)):
        found = searched(model, skipper)
        together = model.generate(
            **left_pad(PROMPTS, PAD), num_beams=3, max_new_tokens=NEW, do_sample=False, eos_token_id=EOS,
            pad_token_id=PAD,
        )[:, max(map(len, PROMPTS)) :].tolist()  # fmt: skip
        greedy = decode(model, skipper, PROMPTS, eos=EOS, pad=PAD, max_new_tokens=NEW)
    ended = [tokens[: tokens.index(EOS)] if EOS in tokens else tokens for tokens in together]
    assert [one.tokens for one in found] == ended
    assert [one.tokens for one in found] != [one.tokens for one in greedy]


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_its_layers_are_those_of_its_tokens_decoded_alone(family: str, skipping: Any) -> None:
    model, skipper = skipping(family)
    seen = set()
    with skipper.using(Threshold(0.5)):
        for prompt, one in zip(PROMPTS, searched(model, skipper), strict=True):
            cache, ids, runs = skipper.new_cache(), torch.tensor([prompt]), []
            for token in [*one.tokens, EOS][: len(one.runs)]:
                with torch.no_grad():
                    model(input_ids=ids, past_key_values=cache)
                runs.append(skipper.last.run_matrix()[0].tolist())
                ids = torch.tensor([[token]])
            assert [r.tolist() for r in one.runs] == runs
            seen |= {tuple(r) for r in runs}
    assert len(seen) > 1, "the controllers are of one mind: nothing was tried"


def test_its_account_holds_all_beams(skipping: Any) -> None:
    model, skipper = skipping()
    runs = torch.tensor([True, True, False, False, True, True])
    with skipper.using(Forced(runs)):
        found = beam_search(model, skipper, PROMPTS[:1], beams=4, eos=-1, pad=PAD, max_new_tokens=NEW)
        ran = sum(skipper.counter.ran)
    prompt, steps = 4 * len(PROMPTS[0]), 4 * (NEW - 1)
    assert found[0].layer_tokens() == (2 * prompt, 6 * prompt, 2 * steps, 6 * steps)
    assert ran == 4 * (prompt + steps), "what was counted at the layers"


def test_a_search_that_only_masks_is_found_out(skipping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, skipper = skipping()
    monkeypatch.setattr(Pass, "selection", lambda *_: (True, None))
    some = Forced(torch.tensor([True, False, True, True, False, True]))
    with skipper.using(some), pytest.raises(DlskipError, match=r"executions counted.*\n.*cannot be trusted"):
        searched(model, skipper)
