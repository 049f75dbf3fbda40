from __future__ import annotations

import pytest

from dlskip.evaluation.metrics import mt_metrics, nlu_metrics, parse_answer

OWN = ("accuracy", "f1", "mcc")


def score(predicted: list[int | None], gold: list[int]) -> dict[str, float]:
    return nlu_metrics(predicted, gold, labels=2, own=OWN, positive=1)


@pytest.mark.parametrize(
    ("text", "label"),
    [(" yes", 1), ("No\n", 0), ("YES", 1), ("yes.", None), ("yes it is", None), ("maybe", None), ("", None)],
)
def test_an_answer_is_a_whole_label_or_invalid(text: str, label: int | None) -> None:
    assert parse_answer(text, ("no", "yes")) == label


def test_a_label_inside_another_is_not_mistaken_for_it() -> None:
    labels = ("entailment", "not entailment")
    assert [parse_answer(f" {label}", labels) for label in labels] == [0, 1]


def test_perfect_answers_score_one() -> None:
    assert score([0, 1, 1, 0], [0, 1, 1, 0]) == {
        "f1_macro": 1.0, "accuracy": 1.0, "f1": 1.0, "mcc": 1.0, "invalid_rate": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("constant", [0, 1])
def test_a_constant_answer_scores_a_third(constant: int) -> None:
    scores = score([constant] * 10, [0, 1] * 5)
    assert scores["f1_macro"] == pytest.approx(1 / 3)  # (2/3 + 0) / 2
    assert scores["accuracy"] == 0.5
    assert scores["f1"] == pytest.approx(2 / 3 if constant else 0.0)
    assert scores["mcc"] == 0.0


def test_invalid_answers_are_wrong_and_counted() -> None:
    scores = score([0, None, 1, None], [0, 0, 1, 1])
    assert scores["invalid_rate"] == 0.5
    assert scores["accuracy"] == 0.5
    assert scores["f1_macro"] == pytest.approx(2 / 3)  # precision 1, recall 1/2 for either label
    assert scores["f1"] == pytest.approx(2 / 3)
    assert 0 < scores["mcc"] < 1
    assert score([None, None], [0, 1])["f1_macro"] == 0.0


def test_only_the_tasks_own_metrics_are_reported() -> None:
    assert nlu_metrics([0, 1], [0, 1], 2, (), 1).keys() == {"f1_macro", "accuracy", "invalid_rate"}


def test_bleu_of_the_reference_is_100() -> None:
    text = ["the old man sees a small red house", "we bought four fresh apples today"]
    scores, signatures = mt_metrics(text, text, "en")
    assert scores["bleu"] == pytest.approx(100) and scores["chrf"] == pytest.approx(100)
    assert "tok:13a" in signatures["bleu"] and signatures["chrf"].startswith("nrefs:1")
    assert mt_metrics(["nothing alike", "at all"], text, "en")[0]["bleu"] < 5


def test_chinese_is_split_into_characters() -> None:
    reference, hypothesis = ["老人今天看见了一座红色的小房子"], ["老人昨天看见了一座红色的小房子"]
    scores, signatures = mt_metrics(hypothesis, reference, "zh")
    assert "tok:zh" in signatures["bleu"]
    assert 50 < scores["bleu"] < 100  # one character differs
    assert mt_metrics(hypothesis, reference, "en")[0]["bleu"] == 0  # one long "word", wrong
