"""Examples to padded batches: tokenised once, drawn by (seed, step) alone, so that a resumed run needs no state.

Batches are length-bucketed: a window of shuffled examples is sorted by length and cut, which keeps padding to a few
per cent without packing, and so without any way for one example to attend to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dlskip.data.io import Example
from dlskip.errors import DlskipError
from dlskip.skip.passes import Deciders

WINDOW = 32  # batches per bucketing window: 2 % of padding on the embedded suite, where 8 leave 9 %


@dataclass(frozen=True)
class Encoded:
    """One tokenised example: prompt and target ids; the target ends with EOS."""

    prompt: list[int]
    target: list[int]
    task: str


def encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
    """Tokenises prompts and targets; an over-long prompt is cut from the left, so that its end still asks the question.

    Raises:
        DlskipError: A target alone does not fit ``max_length``.
    """
    bos = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []
    encoded = []
    for example in examples:
        prompt = bos + tokenizer(example.prompt, add_special_tokens=False)["input_ids"]
        target = [*tokenizer(example.target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        room = max_length - len(target) + 1  # the last target token is never an input
        if room < 1:
            raise DlskipError(
                f"target of {len(target)} tokens", where=example.id, mend=f"raise max_length ({max_length})"
            )
        encoded.append(Encoded(prompt[-room:], target, example.task))
    return encoded


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


@dataclass(frozen=True)
class Batch:
    """A left-padded teacher-forced batch of B rows, T tokens and N predicted tokens.

    A token predicts a target exactly where it decides about layers (the last prompt token and every response token
    but the last), so ``rows``/``tokens`` index both.
    """

    input_ids: Tensor  # (B, T) long
    attention_mask: Tensor  # (B, T) long
    position_ids: Tensor  # (B, T) long
    rows: Tensor  # (N,) long
    tokens: Tensor  # (N,) long
    targets: Tensor  # (N,) long
    place: Tensor  # (N,) long, 0 = first token of its target
    owner: Tensor  # (B, T) long, which of the N decides for a token
    weight: Tensor  # (N,) float32, 1 / (B * tokens of its target): sums to 1; every example counts the same
    tasks: tuple[str, ...]

    @property
    def deciders(self) -> Deciders:
        """The deciding tokens, for per-token masks."""
        return Deciders(self.rows, self.tokens, self.owner, self.attention_mask.bool())

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The stack's keyword arguments."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "position_ids": self.position_ids}

    @property
    def applications(self) -> Tensor:
        """What each decision is of its row's tokens, which all go through the layers it chooses: (N,), sums to 1.

        The prompt's decision counts for all of its tokens, as in the share that an evaluation measures.
        """
        real = self.attention_mask.bool()
        each = torch.bincount(self.owner[real], minlength=len(self.rows)) / real.sum(dim=1)[self.rows]
        return each / len(real)

    def repeat(self, times: int) -> Batch:
        """Each row ``times`` times, copies of a row side by side: (B * times, T), N * times."""
        if times == 1:
            return self
        order = [list(range(self.input_ids.shape[0]))[i // times] for i in range(self.input_ids.shape[0] * times)]
        return _gather(self, order)

    def to(self, device: torch.device | str) -> Batch:
        """Moves all tensors."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.__dict__.items()}
        return Batch(**moved)


def _gather(batch: Batch, order: list[int]) -> Batch:
    index = torch.tensor(order)
    rows, tokens, targets, place, weight = [], [], [], [], []
    owner = batch.owner[index].clone()
    n = 0
    for new, old in enumerate(order):
        mine = (batch.rows == old).nonzero().squeeze(1)
        rows.append(torch.full_like(mine, new))
        tokens.append(batch.tokens[mine])
        targets.append(batch.targets[mine])
        place.append(batch.place[mine])
        weight.append(batch.weight[mine])
        owner[new] += n - int(mine[0])
        n += len(mine)
    return Batch(
        batch.input_ids[index], batch.attention_mask[index], batch.position_ids[index],
        torch.cat(rows), torch.cat(tokens), torch.cat(targets), torch.cat(place), owner,
        torch.cat(weight) / (len(order) / batch.input_ids.shape[0]), tuple(batch.tasks[i] for i in order),
    )  # fmt: skip


def collate(examples: Sequence[Encoded], pad: int) -> Batch:
    """Left-pads examples into a ``Batch``."""
    inputs = [e.prompt + e.target[:-1] for e in examples]
    size = len(inputs)
    width = max(map(len, inputs))
    ids = torch.full((size, width), pad, dtype=torch.long)
    mask = torch.zeros((size, width), dtype=torch.long)
    owner = torch.zeros((size, width), dtype=torch.long)
    rows: list[int] = []
    tokens: list[int] = []
    targets: list[int] = []
    place: list[int] = []
    weight: list[float] = []
    for i, (e, line) in enumerate(zip(examples, inputs, strict=True)):
        start = width - len(line)
        first = width - len(e.target)
        ids[i, start:] = torch.tensor(line)
        mask[i, start:] = 1
        n = len(rows)
        owner[i] = (torch.arange(width) - first).clamp(min=0) + n
        rows += [i] * len(e.target)
        tokens += range(first, width)
        targets += e.target
        place += range(len(e.target))
        weight += [1 / (size * len(e.target))] * len(e.target)
    return Batch(
        ids, mask, (mask.cumsum(1) - 1).clamp(min=0),
        torch.tensor(rows), torch.tensor(tokens), torch.tensor(targets), torch.tensor(place), owner,
        torch.tensor(weight),
        tuple(e.task for e in examples),
    )  # fmt: skip


def left_pad(prompts: Sequence[list[int]], pad: int) -> dict[str, Tensor]:
    """Left-pads prompts for generation: ``input_ids`` and ``attention_mask``, (B, T) long."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


class Batches:
    """An endless, stateless stream of batches.

    Args:
        examples: What is drawn from, without replacement within an epoch.
        pad: Id of the padding token.
        batch: Examples per step, over all processes.
        seed: With the step, determines every batch.
        rank: This process among ``world``.
    """

    def __init__(
        self, examples: Sequence[Encoded], pad: int, batch: int, seed: int, *, rank: int = 0, world: int = 1
    ) -> None:
        if len(examples) < batch:
            raise DlskipError(f"{len(examples)} examples cannot fill a batch of {batch}", where="train.batch")
        if batch < world:
            raise DlskipError(f"a batch of {batch} over {world} processes", where="train.batch", mend="raise it")
        self.examples = examples
        self.pad = pad
        self.batch = batch
        self.seed = seed
        self.rank = rank
        self.world = world
        self.per_epoch = len(examples) // batch
        self._epoch = -1
        self._order = np.empty(0)

    def at(self, step: int) -> Batch:
        """The batch of optimizer step ``step`` (from 0), this process's share of it."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self._plan(epoch)
        chosen = self._order[place][self.rank :: self.world]
        return collate([self.examples[i] for i in chosen], self.pad)

    def tokens(self, steps: int) -> int:
        """Input tokens of the first ``steps`` batches, over all processes, padding left out."""
        lengths = np.array([len(e.prompt) + len(e.target) - 1 for e in self.examples])
        epochs, rest = divmod(steps, self.per_epoch)
        whole = sum(int(lengths[self._plan(epoch)].sum()) for epoch in range(epochs))
        return whole + int(lengths[self._plan(epochs)[:rest]].sum()) if rest else whole

    def _plan(self, epoch: int) -> np.ndarray:
        """The epoch's batches as indices (per_epoch, batch)."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.examples))[: self.per_epoch * self.batch]
        lengths = np.array([len(e.prompt) + len(e.target) for e in self.examples])
        windows = [order[i : i + WINDOW * self.batch] for i in range(0, len(order), WINDOW * self.batch)]
        batches = [w[np.argsort(lengths[w], kind="stable")].reshape(-1, self.batch) for w in windows]
        plan = np.concatenate(batches)
        return plan[rng.permutation(len(plan))]
