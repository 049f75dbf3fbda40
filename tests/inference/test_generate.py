"""`generate()`, pipelines and streams on a loaded model, and the trace of what ran."""

from __future__ import annotations

import copy
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, TextIteratorStreamer, TextStreamer, pipeline, set_seed

import dlskip
from dlskip.data.batches import Encoded, collate, left_pad
from dlskip.errors import DlskipError
from dlskip.inference.scoring import target_logits
from dlskip.models.tiny import FAMILIES, tiny, tiny_tokenizer
from dlskip.skip import Threshold, skipper_of
from dlskip.skip.stack import find_layers
from tests.helpers.published import PROMPTS, generated, publish, runs

Load = Callable[..., Any]


@pytest.fixture(scope="module")
def load(skipping: Any, tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads a published tiny model of a family, once."""
    loaded: dict[str, Any] = {}

    def get(family: str = "llama") -> Any:
        if family not in loaded:
            loaded[family] = dlskip.from_pretrained(publish(tmp_path_factory.mktemp(family), skipping, family).artifact)
        return loaded[family]

    return get


@pytest.fixture
def tokenizer(load: Load) -> Any:
    return AutoTokenizer.from_pretrained(load().name_or_path)


class One:
    """One sequence decoded by hand, from a cache of its own."""

    def __init__(self, model: Any, prompt: list[int]) -> None:
        self.model, self.cache, self.runs = model, skipper_of(model).new_cache(), []
        self._feed(prompt)

    def followed_by(self, token: int) -> One:
        clone = copy.copy(self)
        clone.cache, clone.runs = copy.deepcopy(self.cache), list(self.runs)
        clone._feed([token])
        return clone

    def _feed(self, ids: list[int]) -> None:
        with torch.no_grad():
            out = self.model(input_ids=torch.tensor([ids]), past_key_values=self.cache)
        self.log_probabilities: Tensor = out.logits[0, -1].float().log_softmax(-1)
        self.runs.append(runs(self.model)[0])


def searched(model: Any, prompt: list[int], width: int, new: int) -> list[tuple[float, list[int], One]]:
    """Beam search by hand: (score, tokens, the sequence without its last token), best first."""
    start = One(model, prompt)
    beams: list[tuple[float, list[int], One]] = [(0.0, [], start)]
    for step in range(new):
        grown = [(s, t, one.followed_by(t[-1]) if step else one) for s, t, one in beams]
        candidates = [
            (score + float(p), [*tokens, int(i)], one)
            for score, tokens, one in grown
            for p, i in zip(*one.log_probabilities.topk(width), strict=True)
        ]
        beams = sorted(candidates, key=lambda c: -c[0])[:width]
    return beams


@pytest.mark.parametrize("family", FAMILIES)
def test_at_threshold_one_nothing_is_skipped(family: str, load: Load) -> None:
    """= full depth = the backbone (LoRA folded in) with adapters parallel to its layers, without any of our engine."""
    model = load(family)
    skipper = skipper_of(model)
    with dlskip.full_depth(model):
        expected = generated(model)
    with skipper.using(Threshold(1.0)):
        assert generated(model) == expected
    assert generated(model) != expected
    base = tiny(family)
    base.generation_config.eos_token_id = None
    base.load_state_dict(model.state_dict(), strict=False)
    for block, layer in zip(find_layers(base)[2], skipper.layers, strict=True):

        def beside(_: Any, args: Any, kwargs: Any, out: Any, adapter: Any = layer.adapter) -> Any:
            added = adapter(args[0] if args else kwargs["hidden_states"])
            return (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added

        block.register_forward_hook(beside, with_kwargs=True)
    assert generated(base) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_of_a_padded_batch_is_generated_as_if_alone(family: str, load: Load) -> None:
    model = load(family)
    with dlskip.trace(model) as report:
        together = generated(model)
    assert 0.1 < report.skipped_share < 0.6
    assert together == [generated(model, [prompt])[0] for prompt in PROMPTS]


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_are_those_of_a_search_by_hand(family: str, load: Load) -> None:
    """Each beam reprocessed from its own clone of the cache, skips included; the trace follows them as they move."""
    model = load(family)
    inputs = left_pad(PROMPTS[:2], pad=2)
    width, new = 3, 5
    with dlskip.trace(model) as report:
        found = model.generate(
            **inputs, max_new_tokens=new, num_beams=width, num_return_sequences=width, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
    by_hand = [beam for prompt in PROMPTS[:2] for beam in searched(model, prompt, width, new)]
    assert found.sequences[:, -new:].tolist() == [tokens for _, tokens, _ in by_hand]
    assert (found.beam_indices[:, 1:] % width != found.beam_indices[:, :-1] % width).any(), "no beam ever moved"
    table = report.table(tiny_tokenizer(), found.sequences, found.beam_indices)
    for i, (_, _, one) in enumerate(by_hand):
        prompt = PROMPTS[i // width]
        expected = torch.stack([*[one.runs[0]] * len(prompt), *one.runs[1:]])
        mine = table[table["row"] == i]
        assert mine["token"].tolist() == [*prompt, *found.sequences[i, -new:-1].tolist()]
        assert mine[list(range(6))].to_numpy().tolist() == expected.tolist()


def test_sampling_draws_from_the_skipping_model(load: Load) -> None:
    model = load()
    set_seed(7)
    drawn = generated(model, PROMPTS[:1], new=12, do_sample=True, top_k=0)[0]
    set_seed(7)
    one, by_hand = One(model, PROMPTS[0]), []
    for _ in drawn:
        by_hand.append(int(torch.multinomial(one.log_probabilities.exp()[None], 1)))
        one = one.followed_by(by_hand[-1])
    assert drawn == by_hand and drawn != generated(model, PROMPTS[:1], new=12)[0]


def test_a_second_use_carries_nothing_over(load: Load) -> None:
    model = load()
    first, beams = generated(model), generated(model, num_beams=3)
    with dlskip.full_depth(model):
        generated(model, PROMPTS[2:])
    assert generated(model, num_beams=3) == beams and generated(model) == first
    fresh = copy.deepcopy(model)
    assert generated(fresh) == first


def test_streams_say_what_generate_returns(load: Load, tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = load()
    inputs = tokenizer("the man saw", return_tensors="pt")
    options = {**inputs, "max_new_tokens": 12, "do_sample": False}
    expected = tokenizer.decode(model.generate(**options)[0, inputs["input_ids"].shape[1] :])
    model.generate(**options, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.rstrip("\n") == expected.rstrip("\n")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = Thread(target=model.generate, kwargs={**options, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == expected
    thread.join()


def test_a_pipeline_runs_in_batches(load: Load, tokenizer: Any) -> None:
    model = load()
    texts = ["the man saw a dog", "is it", "yes"]
    ran = pipeline("text-generation", model=model, tokenizer=tokenizer)
    found = ran(texts, batch_size=3, max_new_tokens=6, do_sample=False, return_full_text=False)
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    expected = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert [f[0]["generated_text"] for f in found] == tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert not runs(model).all()


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_the_trace_agrees_with_the_counter(family: str, load: Load) -> None:
    """Tokens counted at the blocks, padding included; over calls, batches and beams."""
    model = load(family)
    skipper = skipper_of(model)
    skipper.reset_counter()
    with dlskip.trace(model) as report:
        generated(model, PROMPTS)
        generated(model, PROMPTS[:1], num_beams=3)
        with dlskip.full_depth(model):
            generated(model, PROMPTS[:2])
        with skipper.disabled():
            generated(model, PROMPTS[:2])
    ran = torch.stack([p.ran.sum(dim=(0, 1)) for p in report.passes]).sum(dim=0)
    assert ran.tolist() == skipper.counter.ran
    assert [len(call) for call in report.calls] == [6, 6, 6]
    assert all(p.ran.all() for p in report.calls[2]) and not all(p.ran.all() for p in report.calls[1])
    generated(model)
    assert len(report.passes) == 18, "recording ends with the context"


def test_shares_and_table_leave_padding_out(load: Load, tokenizer: Any) -> None:
    model = load()
    inputs = left_pad(PROMPTS, pad=2)
    with dlskip.trace(model) as report:
        generated(model, PROMPTS[2:])
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    table = report.table(tokenizer, ids)
    assert list(table.columns) == ["row", "position", "token", "text", "layers_run", *range(6)]
    for i, prompt in enumerate(PROMPTS):
        mine = table[table["row"] == i]
        assert mine["token"].tolist() == [*prompt, *ids[i, -6:-1].tolist()]  # the last one is never fed back
        assert mine["position"].tolist() == list(range(len(prompt) + 5))
        assert mine["text"].tolist() == [tokenizer.decode([t]) for t in mine["token"]]
        with dlskip.trace(model) as alone:
            generated(model, [prompt])
        expected = alone.table(tokenizer, ids[i, -6 - len(prompt) :][None])
        assert mine[list(range(6))].to_numpy().tolist() == expected[list(range(6))].to_numpy().tolist()
        assert (mine["layers_run"] == mine[list(range(6))].sum(axis=1)).all()
        assert alone.layers_run == pytest.approx(mine["layers_run"].mean())
        assert alone.skipped_share == pytest.approx(1 - mine["layers_run"].mean() / 6)
        assert alone.per_layer.tolist() == pytest.approx(mine[list(range(6))].mean().tolist())
        prompt_lines = mine[list(range(6))].head(len(prompt))
        assert (prompt_lines.nunique() == 1).all(), "one decision for a prompt"
    assert report.tokens == len(table) + sum(len(p) + 5 for p in PROMPTS[2:])
    assert str(report).startswith(f"2 calls, {report.tokens} tokens: {report.layers_run:.1f} of 6 layers")


def test_without_a_cache_each_pass_decides_for_the_whole_prefix(load: Load, tokenizer: Any) -> None:
    model = load()
    inputs = left_pad(PROMPTS[:2], pad=2)
    with dlskip.trace(model) as report:
        ids = model.generate(**inputs, max_new_tokens=3, do_sample=False, use_cache=False)
    assert [len(call) for call in report.calls] == [1, 1, 1]
    table = report.table(tokenizer, ids)
    assert len(table) == sum(len(p) + 2 for p in PROMPTS[:2])
    assert all((rows[list(range(6))].nunique() == 1).all() for _, rows in table.groupby("row"))


def test_teacher_forcing_is_traced_token_by_token(load: Load) -> None:
    """The table of what was decoded is that of the same tokens in one pass."""
    model, new = load(), 4
    texts = generated(model, PROMPTS, new=new)
    batch = collate([Encoded(p, t, "any") for p, t in zip(PROMPTS, texts, strict=True)], pad=2)
    with dlskip.trace(model) as report:
        model.generate(**left_pad(PROMPTS, pad=2), max_new_tokens=new, do_sample=False)
        decoded = report.table(tiny_tokenizer(), torch.cat([left_pad(PROMPTS, 2)["input_ids"], torch.tensor(texts)], 1))
        with torch.no_grad(), skipper_of(model).using(Threshold(0.5), batch.deciders):
            target_logits(model, batch)
    forced = report.table(tiny_tokenizer(), batch.input_ids)
    assert decoded.equals(forced)


def test_a_trace_of_nothing_and_of_other_sequences_is_refused(load: Load, tokenizer: Any) -> None:
    model = load()
    with dlskip.trace(model) as report:
        for ask in (lambda: report.skipped_share, lambda: report.table(tokenizer, torch.zeros(1, 3))):
            with pytest.raises(DlskipError, match=r"nothing ran\n.*generate"):
                ask()
        ids = model.generate(**left_pad(PROMPTS, pad=2), max_new_tokens=3, do_sample=False)
    for wrong in (ids[:2], torch.cat([ids, ids[:, :1]], dim=1)):
        with pytest.raises(DlskipError, match="rows of 8 tokens went last"):
            report.table(tokenizer, wrong)
    with pytest.raises(DlskipError, match="no layer skipping"), dlskip.trace(tiny("llama")):
        pass
    with pytest.raises(DlskipError, match="no layer skipping"), dlskip.full_depth(tiny("llama")):
        pass
