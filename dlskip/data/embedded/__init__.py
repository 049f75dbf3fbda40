"""The embedded suite: five understanding and three translation tasks that the project generates by itself.

It has the forms of RTE, MRPC, CoLA, SST-2, QNLI and of translation, and no row of any of them: it is synthetic,
grammar-made English, German and Chinese. A sentence belongs to one split for good, by a hash of its words, so train,
validation and test share none. Some constructions of each understanding task are never shown in training: a model that
has learnt the others by heart still has to generalise to these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

from dlskip.data.embedded.instructions import instruction
from dlskip.data.embedded.pairs import Row, answerability, entailment, paraphrase
from dlskip.data.embedded.single import acceptability, sentiment
from dlskip.data.embedded.translation import parallel


class Grammar(NamedTuple):
    """One understanding task: its generator, how often each construction is drawn, and which are unseen in training."""

    generate: Callable[[Random, int, int], Row]
    weights: tuple[int, ...]
    unseen: frozenset[int]

    def kind(self, rng: Random, split: str) -> int:
        """Draws a construction for a row of a split."""
        allowed = [k for k in range(len(self.weights)) if split != "train" or k not in self.unseen]
        return rng.choices(allowed, [self.weights[k] for k in allowed])[0]


NLU = {
    "entailment": Grammar(entailment, (1, 1, 1, 1, 1, 1, 1), frozenset({3, 6})),
    "paraphrase": Grammar(paraphrase, (3, 3, 3, 2, 3, 2), frozenset({3, 5})),
    "acceptability": Grammar(acceptability, (1,) * 10, frozenset({2, 6, 9})),
    "sentiment": Grammar(sentiment, (3, 3, 3, 2, 3), frozenset({4})),
    "answerability": Grammar(answerability, (8, 5, 4, 2, 3, 3), frozenset({4, 5})),
}
MT = ("en-zh", "en-de", "de-en")


def split_of(sentence: str) -> str:
    """The split that a sentence belongs to, by its hash: 60 % train, 15 % validation, 25 % test."""
    share = hashlib.sha256(sentence.casefold().encode()).digest()[0] / 256
    return "train" if share < 0.60 else "validation" if share < 0.75 else "test"


def rows(task: str, split: str, seed: int) -> Iterator[dict[str, Any]]:
    """An endless stream of distinct rows of one task and split, in the columns of the data sets they are modelled on.

    NLU rows alternate between the labels, so every prefix of even length is balanced.
    """
    rng = Random(f"{seed}/{task}/{split}")
    seen: set[tuple[str, ...]] = set()
    label = 0
    while True:
        if task in NLU:
            grammar = NLU[task]
            row: dict[str, Any] = grammar.generate(rng, label, grammar.kind(rng, split))
            texts = tuple(row.values())
            row |= {"label": label}
        elif task in MT:
            # The three translation tasks share their meanings, so that a sentence is in one split in all of them.
            p = parallel(rng)
            source, target = task.split("-")
            texts = (p.en,)
            row = {"translation": {source: getattr(p, source), target: getattr(p, target)}}
        else:
            question, answer = instruction(rng)
            texts = (question,)
            row = {"instruction": question, "input": "", "output": answer}
        if texts in seen or any(split_of(t) != split for t in texts):
            continue
        seen.add(texts)
        yield row
        label = 1 - label
