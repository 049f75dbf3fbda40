"""The embedded suite: five understanding and three translation tasks that the project generates by itself.

It has the forms of RTE, MRPC, CoLA, SST-2, QNLI and of translation, and no row of any of them: it is synthetic,
grammar-made English, German and Chinese. A sentence belongs to one split for good, by a hash of its words, so train,
validation and test share none. Some constructions of each understanding task are never shown in training: a model that
has learnt the others by heart still has to generalise to these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from dlskip.data.embedded import acceptability, answerability, entailment, paraphrase, sentiment
from dlskip.data.embedded.grammar import Grammar
from dlskip.data.embedded.instructions import instruction
from dlskip.data.embedded.translation import parallel

NLU: dict[str, Grammar[Any]] = {
    "entailment": entailment.GRAMMAR,
    "paraphrase": paraphrase.GRAMMAR,
    "acceptability": acceptability.GRAMMAR,
    "sentiment": sentiment.GRAMMAR,
    "answerability": answerability.GRAMMAR,
}
MT = ("en-zh", "en-de", "de-en")


def split_of(sentence: str) -> str:
    """The split that a sentence belongs to, by its hash: 60 % train, 15 % validation, 25 % test."""
    share = hashlib.sha256(sentence.casefold().encode()).digest()[0] / 256
    return "train" if share < 0.60 else "validation" if share < 0.75 else "test"


def rows(task: str, split: str, seed: int, constructions: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """An endless stream of distinct rows of one task and split, in the columns of the data sets they are modelled on.

    NLU rows alternate between the labels, so every prefix of even length is balanced.

    Args:
        task: Name of an embedded task, or ``instructions``.
        split: ``train``, ``validation`` or ``test``.
        seed: Of the draws.
        constructions: Of an understanding task: those that rows of every split are made of. None: all, and some of
            them not in training.
    """
    grammar = NLU[task].only(constructions) if constructions is not None else NLU.get(task)
    rng = Random(f"{seed}/{task}/{split}")
    seen: set[tuple[str, ...]] = set()
    label = 0
    while True:
        if grammar is not None:
            row: dict[str, Any] = grammar.row(rng, split, label)
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
