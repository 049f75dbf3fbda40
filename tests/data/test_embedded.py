"""The embedded suite: deterministic, disjoint, balanced, and out of reach of a bag of words."""

from __future__ import annotations

from itertools import islice, pairwise
from random import Random

import pytest
from scipy.sparse import hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from dlskip.data import embedded
from dlskip.data.embedded import MT, NLU
from dlskip.data.tasks import INSTRUCTIONS

SPLITS = ("train", "validation", "test")
HARD = ("entailment", "paraphrase", "acceptability", "answerability")


def draw(task: str, split: str, count: int, seed: int = 0) -> list[dict]:
    return list(islice(embedded.rows(task, split, seed), count))


def texts(row: dict) -> list[str]:
    if "translation" in row:
        return [next(iter(row["translation"].values()))]
    return [v for k, v in row.items() if k not in ("label", "output", "input")]


@pytest.mark.parametrize("task", [*NLU, *MT, INSTRUCTIONS])
def test_rows_depend_on_the_seed_alone(task):
    assert draw(task, "train", 40) == draw(task, "train", 40)
    assert draw(task, "train", 40) != draw(task, "train", 40, seed=1)


@pytest.mark.parametrize("task", [*NLU, *MT])
def test_splits_share_no_sentence(task):
    found = {split: {t for row in draw(task, split, 400) for t in texts(row)} for split in SPLITS}
    assert not found["train"] & found["validation"]
    assert not found["train"] & found["test"]
    assert not found["validation"] & found["test"]


@pytest.mark.parametrize("task", NLU)
def test_some_constructions_wait_for_the_test(task):
    grammar, rng = NLU[task], Random(0)
    drawn = {split: [grammar.construction(rng, split) for _ in range(600)] for split in SPLITS}
    assert set(drawn["train"]) == set(grammar.weights) - grammar.unseen
    for split in ("validation", "test"):
        share = sum(construction in grammar.unseen for construction in drawn[split]) / 600
        assert set(drawn[split]) == set(grammar.weights) and 0.15 < share < 0.40


@pytest.mark.parametrize("task", NLU)
def test_every_construction_yields_both_labels(task):
    grammar = NLU[task]
    for construction in grammar.weights:
        made = [grammar.generate(Random(seed), label, construction) for seed in range(40) for label in (0, 1)]
        assert len({tuple(row.values()) for row in made}) > 40, construction.__name__


def test_translation_directions_share_their_split():
    german = {row["translation"]["de"] for row in draw("en-de", "train", 400)}
    assert not german & {row["translation"]["de"] for row in draw("de-en", "test", 400)}


@pytest.mark.parametrize("task", NLU)
def test_a_constant_answer_is_chance(task):
    labels = [row["label"] for row in draw(task, "test", 300)]
    assert sum(labels) == 150


@pytest.mark.parametrize("task", [*NLU, *MT])
def test_rows_do_not_run_out(task):
    assert len(draw(task, "train", 2500)) == 2500


@pytest.mark.parametrize("task", HARD)
def test_a_bag_of_words_fails(task):
    """Counts of each text's words, of the words that both share, and of how many they share."""
    train, test = draw(task, "train", 1200), draw(task, "test", 300)
    columns = [k for k in train[0] if k != "label"]
    parts = []
    for column in columns:
        words = CountVectorizer(token_pattern=r"\w+").fit(row[column] for row in train)
        parts.append([words.transform(row[column] for row in rows) for rows in (train, test)])
    if len(columns) == 2:
        words = CountVectorizer(token_pattern=r"\w+").fit(" ".join(row[c] for c in columns) for row in train)
        both = [[words.transform(row[c] for row in rows) for c in columns] for rows in (train, test)]
        shared = [a.minimum(b).tocsr() for a, b in both]
        parts += [shared, [s.sum(axis=1) for s in shared]]
    x_train, x_test = (hstack([part[i] for part in parts]).tocsr() for i in (0, 1))
    model = LogisticRegression(max_iter=300).fit(x_train, [row["label"] for row in train])
    accuracy = model.score(x_test, [row["label"] for row in test])
    print(f"{task}: bag of words {accuracy:.3f}")
    assert accuracy < 0.62


def test_german_agrees_and_the_verb_closes_the_bracket():
    for row in draw("en-de", "train", 300):
        german = row["translation"]["de"]
        words = german.rstrip(".").split()
        assert german.endswith(".") and german[0].isupper()
        if "hat" in words or "wird" in words:
            assert words[-1].islower(), german  # participle or infinitive last
        assert not {"einen Lampe", "eine Tisch", "der Ärztin"} & {german}
        masculine = {"Brief", "Tisch", "Stuhl", "Hund", "Vogel", "Mantel", "Hut", "Teller"}
        for before, noun in pairwise(words):
            if noun in masculine:
                assert before.endswith("en"), german  # masculine accusative: den, einen, keinen, -en


def test_chinese_has_no_spaces_and_ends_in_its_own_full_stop():
    for row in draw("en-zh", "train", 200):
        chinese = row["translation"]["zh"]
        assert chinese.endswith("。") and " " not in chinese
        assert not set("abcdefghijklmnopqrstuvwxyz") & set(chinese)


def test_instructions_are_short_and_of_many_kinds():
    rows = draw(INSTRUCTIONS, "train", 400)
    assert len({row["instruction"].split()[0] + row["instruction"].split()[1] for row in rows}) > 12
    assert all(row["output"] and len(row["instruction"] + row["output"]) < 120 for row in rows)
