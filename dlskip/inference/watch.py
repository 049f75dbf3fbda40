"""A prompt answered with skipping and at full depth: the layers behind each token, and the time that both take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dlskip.inference.tracing import trace
from dlskip.skip import skipper_of


@dataclass
class Answer:
    """What followed a prompt.

    Args:
        text: Without special tokens.
        tokens: Each new token as text, with the layers (L,) that ran in the forward pass that chose it: the prompt's
            pass for the first one.
        first: Seconds from the prompt to the first token, an entry per repeat.
        further: Seconds of one further token, an entry per repeat; empty if there is none.
    """

    text: str
    tokens: list[tuple[str, tuple[bool, ...]]]
    first: list[float] = field(default_factory=list)
    further: list[float] = field(default_factory=list)

    @property
    def layers_run(self) -> float:
        """Layers run per forward pass."""
        return sum(sum(ran) for _, ran in self.tokens) / len(self.tokens)


def watch(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, *, max_new_tokens: int = 32, repeats: int = 5
) -> tuple[Answer, Answer]:
    """Answers a prompt greedily, with skipping and at full depth, and times both in turn.

    Examples:
        >>> skipping, full = watch(model, tokenizer, "Der Hund sieht das Haus.\\nEnglish:", max_new_tokens=4, repeats=1)
        >>> skipping.layers_run <= full.layers_run == model.config.num_hidden_layers
        True

    Args:
        model: What ``dlskip.from_pretrained`` returns.
        tokenizer: The backbone's.
        prompt: The text.
        max_new_tokens: Longest answer.
        repeats: Timed turns, after one to warm up. They record no layers, because recording takes time.

    Returns:
        The answers with skipping, and at full depth.
    """
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    ways: tuple[Callable[[], AbstractContextManager[None]], ...] = (nullcontext, skipper_of(model).full_depth)
    answers = tuple(_answer(model, tokenizer, inputs, way(), max_new_tokens) for way in ways)
    for turn in range(repeats + 1):
        for answer, way in zip(answers, ways, strict=True):
            new = len(answer.tokens)
            with way():
                first = _seconds(model, tokenizer, inputs, 1)
                whole = _seconds(model, tokenizer, inputs, new) if new > 1 else first
            if turn:
                answer.first.append(first)
                answer.further += [(whole - first) / (new - 1)] if new > 1 else []
    return answers  # type: ignore[return-value]


def _answer(
    model: Any, tokenizer: PreTrainedTokenizerBase, inputs: Any, way: AbstractContextManager[None], most: int
) -> Answer:
    length = inputs["input_ids"].shape[1]
    with way, trace(model) as report:
        ids = model.generate(**inputs, max_new_tokens=most, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    passes = report.each_token(tokenizer, ids)[length - 1 :]
    new = ids[0, length:].tolist()
    tokens = [(str(tokenizer.decode([token])), one.ran) for token, one in zip(new, passes, strict=True)]
    return Answer(str(tokenizer.decode(new, skip_special_tokens=True)), tokens)


def _seconds(model: Any, tokenizer: PreTrainedTokenizerBase, inputs: Any, new: int) -> float:
    _wait(model.device)
    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            **inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
    _wait(model.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def drawn(prompt: str, skipping: Answer, full: Answer) -> Iterator[str]:
    """Lines of text: the prompt, a row for each token with its layers, both answers, and both times."""
    layers = len(skipping.tokens[0][1])
    width = max(12, *(len(repr(text)) for text, _ in skipping.tokens)) + 2
    yield from (f"    {line}" for line in prompt.splitlines())
    yield ""
    yield f"    {'token':<{width}}{'layers':<{layers}}  run"
    for text, ran in skipping.tokens:
        yield f"    {text!r:<{width}}{''.join('█' if run else '·' for run in ran)}  {sum(ran):3d} of {layers}"
    yield ""
    skipped = 1 - skipping.layers_run / layers
    yield f"    with skipping: {skipping.text.strip()}"
    yield f"    at full depth: {full.text.strip()}"
    yield f"    {skipping.layers_run:.1f} of {layers} layers per token, {skipped:.0%} skipped"
    yield f"    the first token takes {_compared(skipping.first, full.first)}"
    if skipping.further and full.further:
        yield f"    each further token takes {_compared(skipping.further, full.further)}"


def _compared(skipping: list[float], full: list[float]) -> str:
    """Medians in milliseconds, and the median ratio of the two in one turn."""
    ratio = median(b / a for a, b in zip(skipping, full, strict=True))
    faster = f"{ratio:.2f} times as fast" if ratio >= 1.005 else f"not faster here ({ratio:.2f} times as fast)"
    return f"{1e3 * median(skipping):.1f} ms, at full depth {1e3 * median(full):.1f} ms: {faster}"
