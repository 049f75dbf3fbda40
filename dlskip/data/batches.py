"""Examples to batches: tokenised once, drawn by (seed, step) alone, so that a resumed run needs no state.

Batches are length-bucketed: a window of shuffled examples is sorted by length and cut, which keeps padding to a few
per cent where every example has a row of its own. With ``packing`` several examples share a row. They are the same
examples, and none of them attends to another (``dlskip.skip.packing``).
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
from dlskip.skip.packing import packed_rows
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
    """A left-padded teacher-forced batch: E examples in R rows of T tokens, with N predicted tokens.

    A row is one example, or several if the batch is packed. A token predicts a target exactly where it decides about
    layers (the last prompt token of an example and its every response token but the last), so ``rows``/``tokens``
    index both. The N are in the order of the examples, whatever row an example is in.
    """

    input_ids: Tensor  # (R, T) long
    attention_mask: Tensor  # (R, T) long, 0 = padding
    position_ids: Tensor  # (R, T) long, from 0 in each example
    rows: Tensor  # (N,) long
    tokens: Tensor  # (N,) long
    sample: Tensor  # (N,) long, which of the E examples; equal to ``rows`` if the batch is not packed
    targets: Tensor  # (N,) long
    place: Tensor  # (N,) long, 0 = first token of its target
    owner: Tensor  # (R, T) long, which of the N decides for a token; any for padding
    weight: Tensor  # (N,) float32, 1 / (E * tokens of its target): sums to 1; every example counts the same
    tasks: tuple[str, ...]  # of the E examples
    packing: Packing | None = None  # what it was packed from, if it was

    @property
    def size(self) -> int:
        """The number of examples, E."""
        return len(self.tasks)

    @property
    def packed(self) -> bool:
        """Whether any row has several examples."""
        return self.size > len(self.input_ids)

    @property
    def deciders(self) -> Deciders:
        """The deciding tokens, for per-token masks."""
        return Deciders(self.rows, self.tokens, self.owner, self.attention_mask.bool())

    @property
    def sample_deciders(self) -> Deciders | None:
        """One deciding token per example, its last prompt token, for masks of whole examples; None = rows are those."""
        if not self.packed:
            return None
        first = self.place == 0
        return Deciders(self.rows[first], self.tokens[first], self.sample[self.owner], self.attention_mask.bool())

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The stack's keyword arguments; without a mask if the batch is packed: ``packed_mask`` makes it."""
        inputs = {"input_ids": self.input_ids, "position_ids": self.position_ids}
        return inputs if self.packed else inputs | {"attention_mask": self.attention_mask}

    @property
    def applications(self) -> Tensor:
        """What each decision is of its example's tokens, which all go through the layers it chooses: (N,), sums to 1.

        The prompt's decision counts for all of its tokens, as in the share that an evaluation measures.
        """
        each = torch.bincount(self.owner[self.attention_mask.bool()], minlength=len(self.rows))
        whole = torch.zeros_like(each[: self.size]).index_add(0, self.sample, each)
        return each / whole[self.sample] / self.size

    def repeat(self, times: int) -> Batch:
        """Each example ``times`` times, its copies side by side: a batch of E * times examples.

        Copies that are to be packed are packed anew: copies may skip differently, and rows of many skip evenly.
        """
        if times == 1:
            return self
        if self.packing is not None:
            copies = [e for e in self.packing.examples for _ in range(times)]
            return collate(copies, self.packing.pad, self.packing.most).to(self.rows.device)
        rows = (self.rows[:, None] * times + torch.arange(times, device=self.rows.device)).flatten()
        order = rows.argsort(stable=True)
        old = order // times
        owner = order.argsort().view(-1, times)[self.owner].movedim(-1, 1).flatten(0, 1)

        def rowwise(x: Tensor) -> Tensor:
            return x.repeat_interleave(times, dim=0)

        return Batch(
            rowwise(self.input_ids), rowwise(self.attention_mask), rowwise(self.position_ids), rows[order],
            self.tokens[old], rows[order], self.targets[old], self.place[old], owner, self.weight[old] / times,
            tuple(task for task in self.tasks for _ in range(times)),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Batch:
        """Moves all tensors."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.__dict__.items()}
        return Batch(**moved)


@dataclass(frozen=True)
class Packing:
    """What a packed batch was made of, so that its copies can be packed too; as the arguments of ``collate``."""

    examples: Sequence[Encoded]
    pad: int
    most: int


def collate(examples: Sequence[Encoded], pad: int, packing: int | None = None) -> Batch:
    """Puts examples into a ``Batch``, padded on the left.

    Examples:
        >>> short, long = Encoded([5, 6], [7, 1], "any"), Encoded([8, 9, 10], [11, 12, 1], "any")
        >>> collate([short, long], pad=2).input_ids
        tensor([[ 2,  2,  5,  6,  7],
                [ 8,  9, 10, 11, 12]])
        >>> collate([short, long], pad=2, packing=8).input_ids
        tensor([[ 5,  6,  7,  8,  9, 10, 11, 12]])

    Args:
        examples: The examples.
        pad: Id of the padding token.
        packing: Tokens of a row, at most, that several examples share; None = one example per row.
    """
    inputs = [e.prompt + e.target[:-1] for e in examples]
    rows = [[i] for i in range(len(inputs))] if packing is None else packed_rows([len(x) for x in inputs], packing)
    width = max(sum(len(inputs[i]) for i in row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask, position, owner = (torch.zeros((len(rows), width), dtype=torch.long) for _ in range(3))
    starts: dict[int, tuple[int, int]] = {}
    for r, row in enumerate(rows):
        start = width - sum(len(inputs[i]) for i in row)
        for i in row:
            starts[i] = r, start
            start += len(inputs[i])
    of_rows: list[int] = []
    tokens: list[int] = []
    sample: list[int] = []
    targets: list[int] = []
    place: list[int] = []
    weight: list[float] = []
    for i, (e, line) in enumerate(zip(examples, inputs, strict=True)):
        r, start = starts[i]
        here = slice(start, start + len(line))
        first = here.stop - len(e.target)  # its last prompt token
        ids[r, here] = torch.tensor(line)
        mask[r, here] = 1
        position[r, here] = torch.arange(len(line))
        owner[r, here] = (torch.arange(start, here.stop) - first).clamp(min=0) + len(targets)
        of_rows += [r] * len(e.target)
        tokens += range(first, here.stop)
        sample += [i] * len(e.target)
        targets += e.target
        place += range(len(e.target))
        weight += [1 / (len(inputs) * len(e.target))] * len(e.target)
    return Batch(
        ids, mask, position, torch.tensor(of_rows), torch.tensor(tokens), torch.tensor(sample), torch.tensor(targets),
        torch.tensor(place), owner, torch.tensor(weight), tuple(e.task for e in examples),
        None if packing is None else Packing(examples, pad, packing),
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
        packing: As of ``collate``.
    """

    def __init__(
        self, examples: Sequence[Encoded], pad: int, batch: int, seed: int, *, rank: int = 0, world: int = 1,
        packing: int | None = None,
    ) -> None:  # fmt: skip
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
        self.packing = packing
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
        return collate([self.examples[i] for i in chosen], self.pad, self.packing)

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
