"""Every task and every prompt template, in one place (docs/method.md §8).

``paper`` templates hold the paper's wording where it gives one and the same form elsewhere; ``short`` ones ask the
same with a few tokens, because on a CPU tokens are the budget. A prompt never ends in a space; a target begins with
one, which is how the backbones' tokenizers write a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

INSTRUCTIONS = "instructions"  # the rows of the adapters' initialisation
Style = Literal["paper", "short"]


@dataclass(frozen=True)
class Task:
    """One data set and how it is asked.

    Args:
        name: Key in params.yaml and in every result.
        title: For people.
        kind: ``nlu`` (answer is one of ``labels``) or ``mt``.
        fields: Input columns, in the order of the source's rows.
        labels: Answer words; index = label number in the data.
        metrics: GLUE's own metrics beside macro F1.
        positive: Label number counted by F1.
        languages: (source, target) of a translation.
        prompts: Template per style; ``{field}`` is replaced by the row's column.
    """

    name: str
    title: str
    kind: Literal["nlu", "mt"]
    fields: tuple[str, ...]
    prompts: Mapping[str, str]
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    positive: int = 1
    languages: tuple[str, str] = ("", "")
    embedded: bool = False

    def prompt(self, row: Mapping[str, Any], style: Style) -> str:
        """Renders a validated row."""
        return self.prompts[style].format(**{f: str(row[f]).strip() for f in self.fields})


_YES_NO = ("no", "yes")
_NAMES = {"en": "English", "de": "German", "zh": "Chinese"}


def _translation(name: str, title: str, source: str, target: str, *, embedded: bool = False) -> Task:
    prompts = {
        "paper": f"Translate the following {_NAMES[source]} sentence into {_NAMES[target]}.\n"
        f"{_NAMES[source]}: {{{source}}}\n{_NAMES[target]}:",
        "short": f"{{{source}}}\n{_NAMES[target]}:",
    }
    return Task(name, title, "mt", (source,), prompts, (), (), languages=(source, target), embedded=embedded)


_TASKS = [
    Task(
        "entailment", "Entailment (embedded, RTE form)", "nlu", ("sentence1", "sentence2"),
        {"paper": "Given a premise and a hypothesis, determine if the premise entails the hypothesis. Output 'yes' or "
                  "'no'.\nPremise: {sentence1}\nHypothesis: {sentence2}\nAnswer:",
         "short": "{sentence1}\nSo: {sentence2}\nTrue?"},
        _YES_NO, embedded=True,
    ),
    Task(
        "paraphrase", "Paraphrase (embedded, MRPC form)", "nlu", ("sentence1", "sentence2"),
        {"paper": "Given two sentences, determine if these sentences are semantically equivalent. Output 'same' or "
                  "'different'.\nSentence 1: {sentence1}\nSentence 2: {sentence2}\nAnswer:",
         "short": "{sentence1}\n{sentence2}\nMeaning:"},
        ("different", "same"), ("accuracy", "f1"), embedded=True,
    ),
    Task(
        "acceptability", "Acceptability (embedded, CoLA form)", "nlu", ("sentence",),
        {"paper": "Given a sentence, determine if it is grammatically acceptable. Output 'good' or 'bad'.\n"
                  "Sentence: {sentence}\nAnswer:",
         "short": "{sentence}\nGrammar:"},
        ("bad", "good"), ("mcc",), embedded=True,
    ),
    Task(
        "sentiment", "Sentiment (embedded, SST-2 form)", "nlu", ("sentence",),
        {"paper": "Given a sentence, evaluate the sentiment of this sentence as either positive or negative. Output "
                  "'positive' or 'negative'.\nSentence: {sentence}\nAnswer:",
         "short": "{sentence}\nSentiment:"},
        ("negative", "positive"), embedded=True,
    ),
    Task(
        "answerability", "Answerability (embedded, QNLI form)", "nlu", ("question", "sentence"),
        {"paper": "Given a question and a sentence, determine if the sentence answers the question. Output 'yes' or "
                  "'no'.\nQuestion: {question}\nSentence: {sentence}\nAnswer:",
         "short": "Question: {question}\nAnswer: {sentence}\nGood answer?"},
        _YES_NO, embedded=True,
    ),
    _translation("en-zh", "English to Chinese (embedded)", "en", "zh", embedded=True),
    _translation("en-de", "English to German (embedded)", "en", "de", embedded=True),
    _translation("de-en", "German to English (embedded)", "de", "en", embedded=True),
    Task(
        "rte", "RTE", "nlu", ("sentence1", "sentence2"),
        {"paper": "Given a premise and a hypothesis, determine if the premise entails the hypothesis. Output "
                  "'entailment' or 'not entailment'.\nPremise: {sentence1}\nHypothesis: {sentence2}\nAnswer:",
         "short": "{sentence1}\nSo: {sentence2}\nRelation:"},
        ("entailment", "not entailment"),
    ),
    Task(
        "mrpc", "MRPC", "nlu", ("sentence1", "sentence2"),
        {"paper": "Given two sentences, determine if these sentences are semantically equivalent. Output 'equivalent' "
                  "or 'not equivalent'.\nSentence 1: {sentence1}\nSentence 2: {sentence2}\nAnswer:",
         "short": "{sentence1}\n{sentence2}\nMeaning:"},
        ("not equivalent", "equivalent"), ("accuracy", "f1"),
    ),
    Task(
        "cola", "CoLA", "nlu", ("sentence",),
        {"paper": "Given a sentence, determine if it is grammatically acceptable. Output 'acceptable' or "
                  "'unacceptable'.\nSentence: {sentence}\nAnswer:",
         "short": "{sentence}\nGrammar:"},
        ("unacceptable", "acceptable"), ("mcc",),
    ),
    Task(
        "sst2", "SST-2", "nlu", ("sentence",),
        {"paper": "Given a sentence, evaluate the sentiment of this sentence as either positive or negative. Output "
                  "'positive' or 'negative'.\nSentence: {sentence}\nAnswer:",
         "short": "{sentence}\nSentiment:"},
        ("negative", "positive"),
    ),
    Task(
        "qnli", "QNLI", "nlu", ("question", "sentence"),
        {"paper": "Given a question and a sentence, determine if the sentence answers the question. Output "
                  "'entailment' or 'not entailment'.\nQuestion: {question}\nSentence: {sentence}\nAnswer:",
         "short": "{question}\n{sentence}\nRelation:"},
        ("entailment", "not entailment"),
    ),
    Task(
        "qqp", "QQP", "nlu", ("question1", "question2"),
        {"paper": "Given two questions, evaluate whether these questions are semantically similar. Output 'similar' or "
                  "'not similar'.\nQuestion 1: {question1}\nQuestion 2: {question2}\nAnswer:",
         "short": "{question1}\n{question2}\nMeaning:"},
        ("not similar", "similar"), ("accuracy", "f1"),
    ),
    _translation("wmt23-en-zh", "WMT23 en-zh", "en", "zh"),
    _translation("wmt23-en-de", "WMT23 en-de", "en", "de"),
    _translation("iwslt-de-en", "IWSLT de-en", "de", "en"),
]  # fmt: skip

BUILT_IN: dict[str, Task] = {task.name: task for task in _TASKS}
TASKS: dict[str, Task] = dict(BUILT_IN)  # and, once params.yaml is read, those of prepare.tasks


def define(own: Mapping[str, Task]) -> None:
    """Adds the tasks that params.yaml defines, in place of those that were defined before."""
    TASKS.clear()
    TASKS.update(BUILT_IN | dict(own))


def instruction_prompt(instruction: str, context: str) -> str:
    """The prompt of an instruction row (adapter initialisation)."""
    return (
        f"{instruction.strip()}\n{context.strip()}\nAnswer:" if context.strip() else f"{instruction.strip()}\nAnswer:"
    )
