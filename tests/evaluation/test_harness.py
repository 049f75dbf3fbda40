"""The evaluation harness scores what our decoding does: its own runs on local tasks, and step by step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlskip.errors import DlskipError
from dlskip.hub.pretrained import calibrated, from_pretrained
from dlskip.inference.decode import decode
from dlskip.models.tiny import FAMILIES
from dlskip.skip import skipper_of
from tests.helpers.published import publish

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from dlskip.evaluation import harness  # noqa: E402

pytestmark = pytest.mark.slow

QUESTIONS = [
    ("is it true? the man", " saw a dog"),
    ("a dog in the house", " yes"),
    ("no", " good"),
    ("bad der", " Mann"),
]
TASKS = {
    "local_choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["{{right}}", " no", " die Frau", "is"]
doc_to_target: 0
metric_list: [{metric: acc}]
""",
    "local_text": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{right}}"
generation_kwargs: {until: ["zzz"], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with two tasks of the harness over a local JSON-lines file."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [json.dumps({"question": q, "right": a}) for q, a in QUESTIONS]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    for name, text in TASKS.items():
        where = f"{{data_files: {{test: {folder}/rows.jsonl}}, cache_dir: {tmp_path}/cache}}"
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {where}\ntest_split: test\n"
        (folder / f"{name}.yaml").write_text(head + text)
    return folder


def model_of(root: Path, skipping: Any, family: str = "llama", kv_fill: str = "copy", **options: Any) -> harness.SkipLM:
    made = publish(root, skipping, family, kv_fill=kv_fill)
    return harness.SkipLM(str(made.artifact), **{"threshold": 0.5, "device": "cpu", "batch_size": 3} | options)


def requests_of(lm: harness.SkipLM) -> list[Any]:
    """Texts and token ids: every question with its answer, and with other lengths."""
    pairs = [*QUESTIONS, *((question, " in the house is it true") for question, _ in QUESTIONS)]
    return [(pair, *lm._encode_pair(*pair)) for pair in pairs]


def step_by_step(lm: harness.SkipLM, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Cached decoding that is given the tokens: the whole context first, then one token at a time."""
    cache, ids, total, greedy = skipper_of(lm.model).new_cache(), context, 0.0, True
    for token in continuation:
        with torch.no_grad():
            logits: Tensor = lm.model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True).logits
        total += float(logits[0, -1].log_softmax(dim=-1)[token])
        greedy &= int(logits[0, -1].argmax()) == token
        ids = [token]
    return total, greedy


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_fill", ["copy", "project"])
def test_log_likelihoods_are_those_of_cached_decoding(family: str, kv_fill: str, tmp_path: Path, skipping: Any) -> None:
    lm = model_of(tmp_path, skipping, family, kv_fill)
    requests = requests_of(lm)
    likely = [int(t) for t in lm.model.generate(torch.tensor([requests[0][1]]), max_new_tokens=3, do_sample=False)[0]]
    requests.append((None, likely[:-3], likely[-3:]))
    scored = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    for (_, context, continuation), (total, greedy) in zip(requests, scored, strict=True):
        expected = step_by_step(lm, context, continuation)
        assert total == pytest.approx(expected[0], abs=1e-3) and greedy == expected[1]
    assert scored[-1][1] and not all(greedy for _, greedy in scored)


def test_the_harness_own_scoring_looks_ahead_and_ours_equals_it_at_full_depth(tmp_path: Path, skipping: Any) -> None:
    """Why scoring is overridden: one decision of the last token for the whole row is not what decoding does."""
    for threshold, same in ((1.0, True), (0.5, False)):
        lm = model_of(tmp_path / str(threshold), skipping, threshold=threshold)
        requests = requests_of(lm)
        ours, theirs = lm._loglikelihood_tokens(requests, True), HFLM._loglikelihood_tokens(lm, requests, True)
        assert ([o[0] for o in ours] == pytest.approx([t[0] for t in theirs], abs=1e-3)) == same


@pytest.mark.parametrize("batch_size", [1, 8, "auto"])
def test_batches_and_shared_contexts_do_not_change_a_score(batch_size: Any, tmp_path: Path, skipping: Any) -> None:
    """Among continuations that differ in their last token only, and contexts that differ in where they end."""
    lm = model_of(tmp_path, skipping, batch_size=batch_size, max_batch_size=4)
    ids = lm.tok_encode("the man saw a dog in the house")
    cut = [(None, ids[:6], [*ids[6:8], last]) for last in (3, 40, 50)]
    moved = [(None, ids[:5], [*ids[5:8], last]) for last in (3, 40)]
    for request, (total, _) in zip(cut + moved, lm._loglikelihood_tokens(cut + moved, True), strict=True):
        assert total == pytest.approx(step_by_step(lm, *request[1:])[0], abs=1e-3)


def test_a_context_that_does_not_fit_loses_its_beginning(tmp_path: Path, skipping: Any) -> None:
    lm = model_of(tmp_path, skipping, max_length=8)
    context, continuation = list(range(10, 40)), [5, 6, 7]
    [(total, _)] = lm._loglikelihood_tokens([(None, context, continuation)], True)
    assert total == pytest.approx(step_by_step(lm, context[-6:], continuation)[0], abs=1e-3)
    with pytest.raises(DlskipError, match="cannot score 9 tokens"):
        lm._loglikelihood_tokens([(None, context, list(range(9)))], True)


def test_rolling_windows_are_scored_likewise(tmp_path: Path, skipping: Any) -> None:
    lm = model_of(tmp_path, skipping)
    text = "the man saw a dog in the house"
    [total] = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    assert total == pytest.approx(step_by_step(lm, [lm.prefix_token_id], lm.tok_encode(text))[0], abs=1e-3)


def test_a_local_task_runs_through_the_harness(tmp_path: Path, tasks: Path, skipping: Any) -> None:
    made = publish(tmp_path, skipping)
    results = lm_eval.simple_evaluate(
        model="dlskip", model_args={"pretrained": str(made.artifact), "threshold": 0.5}, tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False), device="cpu", batch_size=3,
        bootstrap_iters=0, log_samples=True,
    )  # fmt: skip
    lm = model_of(tmp_path / "again", skipping)
    for sample in results["samples"]["local_choice"]:
        pairs = [tuple(arguments) for arguments in sample["arguments"]]
        expected = [step_by_step(lm, *lm._encode_pair(*pair))[0] for pair in pairs]
        assert [answer[0] for answer in sample["filtered_resps"]] == pytest.approx(expected, abs=1e-3)
        assert sample["acc"] == float(max(expected) == expected[0])
    right = [sample["acc"] for sample in results["samples"]["local_choice"]]
    assert results["results"]["local_choice"]["acc,none"] == sum(right) / len(right)
    for sample in results["samples"]["local_text"]:
        ids = lm.tok_encode(sample["doc"]["question"])
        [said] = decode(lm.model, lm.skipper, [ids], eos=1, pad=2, max_new_tokens=6)
        assert sample["filtered_resps"] == [lm.tok_decode(said.tokens)]
    config = results["config"]
    assert 1 / 3 < config["layers_run"] < 1 and config["threshold"] == 0.5 and "model_num_parameters" in config


@pytest.mark.slow
def test_the_command_line_knows_the_model_type(tmp_path: Path, tasks: Path, skipping: Any) -> None:
    made, out = publish(tmp_path, skipping), tmp_path / "out"
    arguments = ["--model", "dlskip", "--model_args", f"pretrained={made.artifact},threshold=1", "--device", "cpu"]
    arguments += ["--tasks", "local_choice", "--include_path", str(tasks), "--output_path", str(out)]
    ran = subprocess.run([sys.executable, "-m", "dlskip", "harness", *arguments], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    [written] = out.rglob("results_*.json")
    found = json.loads(written.read_text())
    assert found["config"]["layers_run"] == 1 and "acc,none" in found["results"]["local_choice"]
    assert "local_choice" in ran.stdout


def test_options_that_would_be_ignored_are_refused(tmp_path: Path, skipping: Any) -> None:
    made = publish(tmp_path, skipping)
    with pytest.raises(DlskipError, match=r"(?s)unknown option treshold.*did you mean threshold"):
        harness.SkipLM(str(made.artifact), treshold=0.4)
    with pytest.raises(DlskipError, match="unknown option parallelize"):
        harness.SkipLM(str(made.artifact), parallelize=True)


def test_rows_that_decide_together_cannot_be_scored(tmp_path: Path, skipping: Any) -> None:
    lm = model_of(tmp_path, skipping, batch_policy="majority")
    with pytest.raises(DlskipError, match="majority"):
        lm._loglikelihood_tokens(requests_of(lm), True)


def test_prices_and_budgets_are_taken(tmp_path: Path, skipping: Any) -> None:
    made = publish(tmp_path, skipping, prices=(0.25, 4.0))
    shares = []
    for price in (0.25, 4.0):
        lm = harness.SkipLM(str(made.artifact), price=price, device="cpu", batch_size=2)
        lm._loglikelihood_tokens(requests_of(lm), True)
        info = lm.get_model_info()
        shares.append(info["layers_run"])
        assert info["price"] == price
    assert shares[0] != shares[1]
    model: Any = from_pretrained(made.artifact)
    calibrated(model, {"price": 1.0, "dial": [[0.5, 0.9], [2.0, 0.4]]})
    model.save_pretrained(tmp_path / "dialled")
    lm = harness.SkipLM(str(tmp_path / "dialled"), budget=0.5, device="cpu")
    assert lm.get_model_info()["price"] == 2.0
