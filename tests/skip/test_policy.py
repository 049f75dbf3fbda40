"""Who decides, and how: thresholds, batch rules, sampling with its strategy, chance."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlskip.config import RL
from dlskip.data.batches import left_pad
from dlskip.errors import DlskipError
from dlskip.skip import Forced, FullDepth, Policy, RandomSkip, Sampled, Strategy, Threshold
from dlskip.skip.passes import Pass
from dlskip.steps.reinforce import strategy_at

PROMPTS = left_pad([[5, 6, 7, 8], [9, 10], [11]], pad=2)
CPU = torch.device("cpu")


def begun(policy: Policy, n: int, layers: int = 6) -> Any:
    policy.begin(n, layers, 1, CPU)
    return policy


def decide(policy: Policy, logits: Tensor) -> list[bool]:
    run = begun(policy, len(logits)).decide(1, logits, torch.zeros(len(logits), 4))
    return run.tolist()


@pytest.mark.parametrize("reads", ["input", "output"])
@pytest.mark.parametrize(
    "policy",
    [
        Threshold(0.0),
        Threshold(0.0, "majority"),
        RandomSkip(1.0),
        Sampled(torch.Generator(), Strategy(-1, 1.0, 1, True)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_the_first_and_the_last_layer_are_never_skipped(policy: Policy, reads: str, skipping: Any) -> None:
    """Even by policies that skip whatever they can."""
    model, skipper = skipping(reads=reads)
    with torch.no_grad():
        for head in skipper.heads():
            head.fill_(0)  # sampling then starts at one half and is raised to certainty after one similar layer
    with torch.no_grad(), skipper.using(policy):
        model(**PROMPTS)
        runs = skipper.last.run_matrix()
    assert runs[:, 0].all() and runs[:, -1].all()
    free = runs[:, 1:-1] if not isinstance(policy, Sampled) else runs[:, 1:-1][:, 1:]
    assert not free.any()
    with pytest.raises(DlskipError, match="never skipped"):
        Forced(torch.tensor([False, True, True]))
    with pytest.raises(DlskipError, match="never skipped"):
        Forced(torch.tensor([[True, True, True], [True, True, False]]))


def test_the_last_two_layers_have_no_controller(skipping: Any) -> None:
    """The last layer always runs, so nobody decides about it."""
    _, skipper = skipping()
    assert [layer.head is not None for layer in skipper.layers] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("threshold", [0.8, 0.7, 0.5, 0.4, 0.3])
def test_a_layer_is_skipped_iff_p_exceeds_the_threshold(threshold: float) -> None:
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    p = p[(p - threshold).abs() > 1e-6]
    assert decide(Threshold(threshold), torch.logit(p).float()) == (p <= threshold).tolist()


def test_thresholds_zero_and_one_are_exact() -> None:
    """Where sigmoid would round to 0 or 1."""
    extreme = torch.tensor([-3e38, -200.0, 0.0, 200.0, 3e38])
    assert decide(Threshold(0.0), extreme) == [False] * 5
    assert decide(Threshold(1.0), extreme) == [True] * 5
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(DlskipError, match="no probability"):
            Threshold(bad)
    with pytest.raises(DlskipError, match="batch policy"):
        Threshold(0.5, "most")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("exceeding", "majority", "some", "every"),
    [(0, False, False, False), (1, False, True, False), (2, False, True, False), (3, True, True, False),
     (4, True, True, True)],
)  # fmt: skip
def test_batch_rules_decide_once_for_all_rows(exceeding: int, majority: bool, some: bool, every: bool) -> None:
    """Majority means more than half: two of four run."""
    logits = torch.tensor([5.0] * exceeding + [-5.0] * (4 - exceeding))
    for rule, skips in (("majority", majority), ("any", some), ("all", every)):
        assert decide(Threshold(0.5, rule), logits) == [not skips] * 4  # type: ignore[arg-type]
    assert decide(Threshold(0.5, "per_sample"), logits) == (logits < 0).tolist()


@pytest.mark.parametrize("rule", ["majority", "any", "all"])
def test_a_batch_of_one_is_its_own_majority(rule: Any) -> None:
    assert decide(Threshold(0.5, rule), torch.tensor([1.0])) == [False]
    assert decide(Threshold(0.5, rule), torch.tensor([-1.0])) == [True]


@pytest.mark.parametrize("rule", ["majority", "any", "all"])
def test_batch_rules_hold_in_the_model(rule: str, skipping: Any) -> None:
    """Recomputed by hand from the logits that the controllers gave, layer by layer."""

    class Spy(Threshold):
        def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> Tensor | None:
            seen.append(logit)
            return super().decide(layer, logit, state)

    model, skipper = skipping()
    seen: list[Any] = []
    with torch.no_grad(), skipper.using(Spy(0.5, rule)):  # type: ignore[arg-type]
        model(**PROMPTS)
    exceed = torch.stack([torch.sigmoid(logit) > 0.5 for logit in seen]).sum(dim=1)  # (A,) of 3 rows
    skips = {"majority": exceed >= 2, "any": exceed >= 1, "all": exceed == 3}[rule]
    assert skips.any() or rule == "all"
    assert torch.equal(skipper.last.run_matrix()[:, 1:-1], (~skips).expand(3, 4))


def test_chance_hits_the_requested_rate(skipping: Any) -> None:
    """The share is of all L layers, though two of them are not free; prompts and decoding have their own."""
    model, skipper = skipping()
    ids = torch.randint(3, 300, (400, 2), generator=torch.Generator().manual_seed(0))
    policy = RandomSkip(0.3, 0.5, seed=1)
    with torch.no_grad(), skipper.using(policy):
        for tokens, rate in ((ids, 0.3), (ids[:, :1], 0.5)):
            skipper.reset_counter()
            model(input_ids=tokens, use_cache=False)
            ran = sum(skipper.counter.ran) / (6 * tokens.numel())
            assert abs(1 - ran - rate) < 4 * math.sqrt(0.25 / 1600) * 4 / 6
    assert begun(RandomSkip(1.0), 3).decide(1, None, None).tolist() == [False] * 3
    assert begun(RandomSkip(0.0), 3).decide(1, None, None).tolist() == [True] * 3


def test_chance_repeats_with_its_seed_only() -> None:
    def drawn(seed: int) -> list[bool]:
        return begun(RandomSkip(0.3, seed=seed), 64).decide(1, None, None).tolist()

    assert drawn(0) == drawn(0) != drawn(1)


def test_sampling_follows_the_controllers_probability() -> None:
    logits = torch.tensor([-2.0, 0.0, 1.5]).repeat_interleave(4000)
    policy = begun(Sampled(torch.Generator().manual_seed(0)), len(logits))
    run = policy.decide(1, logits, torch.zeros(len(logits), 1))
    rate = 1 - run.view(3, 4000).float().mean(dim=1)
    torch.testing.assert_close(rate, torch.sigmoid(torch.tensor([-2.0, 0.0, 1.5])), atol=0.03, rtol=0)
    assert torch.equal(policy.skipped[0], ~run) and not policy.bonus[0].any()


class Path:
    """Feeds a ``Sampled`` chosen similarities and reads back the bonus of each layer."""

    def __init__(self, strategy: Strategy, logit: float = -1e9) -> None:
        self.policy, self.logit = begun(Sampled(torch.Generator().manual_seed(0), strategy), 1, 8), logit

    def bonuses(self, cosines: list[float], ran: list[bool] | None = None) -> list[float]:
        for layer, cosine in enumerate(cosines):
            before = torch.tensor([[1.0, 0.0]])
            after = torch.tensor([[cosine, math.sqrt(1 - cosine**2)]])
            mine = None if ran is None else torch.tensor([ran[layer]])
            self.policy.observe(layer, before, after, mine)
            self.policy.decide(layer + 1, torch.tensor([self.logit]), torch.zeros(1, 2))
        return [round(float(b), 3) for b in self.policy.bonus]


def test_the_bonus_comes_after_m_similar_layers_in_a_row() -> None:
    path = Path(Strategy(tau=0.9, t=0.25, m=3))
    assert path.bonuses([0.95, 0.95, 0.95, 0.95, 0.5, 0.95, 0.95]) == [0, 0, 0.25, 0.25, 0, 0, 0]
    assert Path(Strategy(tau=0.9, t=0.25, m=1)).bonuses([0.95, 0.5, 0.91]) == [0.25, 0, 0.25]
    assert Path(Strategy(tau=0.95, t=0.25, m=1)).bonuses([0.94, 0.96]) == [0, 0.25]


def test_skipped_layers_count_as_similar_on_request_only() -> None:
    ran = [True, False, True, True]
    for counted, expected in ((False, [0, 0, 0, 0.25]), (True, [0, 0.25, 0.25, 0.25])):
        assert Path(Strategy(tau=0.9, t=0.25, m=2, count_skipped=counted)).bonuses([0.99] * 4, ran) == expected


def test_a_new_pass_forgets_the_streak() -> None:
    path = Path(Strategy(tau=0.9, t=0.25, m=2))
    assert path.bonuses([0.99, 0.99]) == [0, 0.25]
    begun(path.policy, 1, 8)
    assert path.bonuses([0.99, 0.99]) == [0, 0.25]


def test_the_raised_probability_is_clipped() -> None:
    path = Path(Strategy(tau=0.9, t=0.9, m=1), logit=3.0)
    path.bonuses([0.99] * 6)
    assert all(bool(s) for s in path.policy.skipped)


def test_m_zero_switches_the_strategy_off() -> None:
    policy = Sampled(torch.Generator(), Strategy(tau=0.9, t=0.25, m=0))
    assert policy.strategy is None and not policy.uses_similarity


def test_m_is_annealed_to_zero(rl_section: Any) -> None:
    config: RL = rl_section(sampling={"m_start": 3, "tau": 0.9, "t": 0.1})
    found = [strategy_at(config, i / 100) for i in range(101)]
    ms = [s.m if s else 0 for s in found]
    assert ms[0] == 3 and ms[-1] == 0 and ms == sorted(ms, reverse=True) and set(ms) == {3, 2, 1, 0}
    assert strategy_at(rl_section(sampling={"enabled": False}), 0.0) is None
    assert strategy_at(rl_section(sampling={"m_start": 0}), 0.0) is None


def test_similarity_is_measured_on_the_deciding_token(skipping: Any) -> None:
    """Recomputed from the hidden states: the streak counts layers whose output resembles their input."""
    model, skipper = skipping()
    strategy = Strategy(tau=0.6, t=0.25, m=1)
    policy = Sampled(torch.Generator().manual_seed(0), strategy)
    with torch.no_grad(), skipper.using(policy):
        states = model(**PROMPTS, output_hidden_states=True).hidden_states
    runs = skipper.last.run_matrix()
    similar = torch.stack(
        [torch.cosine_similarity(states[i][:, -1], states[i + 1][:, -1], dim=-1) > 0.6 for i in range(4)], dim=1
    )
    expected = (similar & runs[:, :4]).float() * 0.25
    assert expected.any() and not expected.all()
    assert torch.equal(torch.stack(policy.bonus, dim=1), expected)


def test_the_deciding_token_of_a_prompt_is_its_last_real_one() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])

    def places(mask: Tensor | None, tokens: int) -> list[int]:
        current = Pass(FullDepth(), (3, tokens), 6, CPU, mask, None, None)
        return current.at_deciders(torch.arange(tokens).expand(3, tokens)[..., None])[:, 0].tolist()

    assert places(mask, 4) == [3, 2, 3]
    assert places(mask[[0, 2, 2]], 4) == places(None, 4) == [3, 3, 3]
    assert places(torch.ones(3, 9, dtype=torch.long), 1) == [0, 0, 0]


def test_policies_are_put_back_after_use(skipping: Any) -> None:
    model, skipper = skipping()
    full = skipper.policy
    assert isinstance(full, FullDepth)
    with pytest.raises(KeyboardInterrupt), skipper.using(Threshold(0.0)), skipper.full_depth():
        raise KeyboardInterrupt
    assert skipper.policy is full and skipper.deciders is None
    with torch.no_grad():
        model(**PROMPTS)
    assert skipper.last.run_matrix().all()
