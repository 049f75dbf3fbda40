"""Quality: macro F1 and GLUE's own metrics for answers, BLEU and chrF for translations.

The numbers that are reported come from scikit-learn and sacreBLEU alone. ``dlskip.report.stats`` scores a second time,
by weighted counts: its bootstrap needs each score on a thousand resamples of the rows, and calling these libraries a
thousand times is too slow. A test holds both to the same values on the rows as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics import BLEU, CHRF
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def parse_answer(text: str, labels: Sequence[str]) -> int | None:
    """The label number of an answer, None if it is none of the labels. Exact but for case and outer space."""
    cleaned = text.strip().casefold()
    return next((i for i, label in enumerate(labels) if label.casefold() == cleaned), None)


def nlu_metrics(
    predicted: Sequence[int | None], gold: Sequence[int], labels: int, own: Sequence[str], positive: int
) -> dict[str, float]:
    """Macro F1 over the task's labels, its own metrics, and the rate of invalid answers; fractions (mcc: -1..1).

    An invalid answer is wrong for every label.

    Args:
        predicted: Label numbers, None = invalid.
        gold: Label numbers.
        labels: How many labels the task has.
        own: GLUE's own metrics: ``accuracy``, ``f1``, ``mcc``.
        positive: The label number that ``f1`` counts.
    """
    filled = [labels if p is None else p for p in predicted]
    scores = {
        "f1_macro": f1_score(gold, filled, labels=range(labels), average="macro", zero_division=0),
        "accuracy": accuracy_score(gold, filled),
        "invalid_rate": sum(p is None for p in predicted) / len(predicted),
    }
    if "f1" in own:
        scores["f1"] = f1_score(gold, filled, labels=[positive], average="macro", zero_division=0)
    if "mcc" in own:
        scores["mcc"] = matthews_corrcoef(gold, filled)
    return {name: float(value) for name, value in scores.items()}


def mt_metrics(
    hypotheses: Sequence[str], references: Sequence[str], target: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Corpus BLEU (tokenizer ``zh`` for Chinese, ``13a`` else) and chrF, 0..100, with sacreBLEU's signatures."""
    scores, signatures = {}, {}
    for name, metric in (("bleu", BLEU(tokenize="zh" if target == "zh" else "13a")), ("chrf", CHRF())):
        scores[name] = metric.corpus_score(list(hypotheses), [list(references)]).score
        signatures[name] = str(metric.get_signature())
    return scores, signatures
