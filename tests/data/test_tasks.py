"""Every task renders in both styles; the stage's entry point writes what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlskip import config
from dlskip.data.io import read_split
from dlskip.data.prepare import prepare
from dlskip.data.tasks import TASKS, instruction_prompt

ROOT = Path(__file__).parents[2]
WORDING = {  # the paper's own, appendix A.2
    "mrpc": "Given two sentences, determine if these sentences are semantically equivalent. "
    "Output 'equivalent' or 'not equivalent'.",
    "sst2": "Given a sentence, evaluate the sentiment of this sentence as either positive or negative. "
    "Output 'positive' or 'negative'.",
    "qqp": "Given two questions, evaluate whether these questions are semantically similar. "
    "Output 'similar' or 'not similar'.",
}


@pytest.mark.parametrize("style", ["paper", "short"])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_prompt_holds_its_fields_and_does_not_end_in_a_space(task, style):
    prompt = task.prompt({field: f" <{field}> " for field in task.fields}, style)
    assert all(f"<{field}>" in prompt for field in task.fields)
    assert prompt == prompt.strip() and "{" not in prompt


@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.kind == "nlu"], ids=lambda t: t.name)
def test_answers_differ_from_their_first_word_on(task):
    assert len({label.split()[0] for label in task.labels}) == len(task.labels)
    paper = task.prompts["paper"]
    assert all(f"'{label}'" in paper for label in task.labels), paper
    assert task.metrics and 0 <= task.positive < len(task.labels)


@pytest.mark.parametrize("task", WORDING)
def test_the_papers_wording_is_kept(task):
    assert TASKS[task].prompts["paper"].startswith(WORDING[task])


def test_braces_in_a_row_are_text():
    assert TASKS["sst2"].prompt({"sentence": "a {b} c"}, "short").startswith("a {b} c")


def test_instructions_with_and_without_input():
    assert instruction_prompt(" Do. ", "") == "Do.\nAnswer:"
    assert instruction_prompt("Do.", "this") == "Do.\nthis\nAnswer:"


def test_the_default_preparation(tmp_path: Path):
    params = config.load_params(ROOT / "params.yaml").prepare.model_copy(
        update={"source": "embedded", "train": 60, "test": 20}
    )
    params = params.model_copy(update={"nlu": ["entailment", "sentiment"], "mt": ["en-zh"], "validation": 10})
    prepare(params, tmp_path)
    for task in ("entailment", "sentiment"):
        rows = read_split(tmp_path, task, "test")
        assert sum(e.label for e in rows) == len(rows) / 2 == 10
        assert all(e.target == f" {TASKS[task].labels[e.label]}" and e.prompt[-1] != " " for e in rows)
    assert len({e.id for e in read_split(tmp_path, "en-zh", "train")}) == (params.train_mt or 60)
