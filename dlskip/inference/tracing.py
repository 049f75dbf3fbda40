"""Which layer ran for which token: ``with dlskip.trace(model) as report: model.generate(...)``."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dlskip.errors import DlskipError, needs
from dlskip.skip import skipper_of
from dlskip.skip.passes import Pass
from dlskip.skip.stack import find_stack

if TYPE_CHECKING:
    import pandas as pd

_MEND = "call generate() inside `with dlskip.trace(model)`"


@dataclass(frozen=True)
class Traced:
    """One forward pass of B rows of T new tokens, on the CPU.

    Args:
        ran: (B, T, L) bool, which layer ran for which token. A prompt's tokens share one decision (docs/method.md §6).
        real: (B, T) bool, False for padding.
        first: Whether nothing was cached before it: a prompt.
    """

    ran: Tensor
    real: Tensor
    first: bool


class TracedToken(NamedTuple):
    """One token that went through the model.

    Args:
        row: Of the batch.
        position: In the row, without padding.
        token: Its id.
        text: The token as text.
        ran: (L,) whether each layer ran for it.
    """

    row: int
    position: int
    token: int
    text: str
    ran: tuple[bool, ...]


@dataclass
class Trace:
    """What ran while it was recorded, over any number of ``generate()`` calls; shares leave padding out."""

    passes: list[Traced] = field(default_factory=list)

    @property
    def calls(self) -> list[list[Traced]]:
        """The passes of each ``generate()`` call: a prompt and what was decoded from its cache."""
        found: list[list[Traced]] = []
        for one in self.passes:
            if one.first or not found:
                found.append([])
            found[-1].append(one)
        return found

    @property
    def tokens(self) -> int:
        """Tokens that went through the model; a row that ended before the others is fed padding, which counts."""
        return sum(int(p.real.sum()) for p in self.passes)

    @property
    def per_layer(self) -> Tensor:
        """(L,) float32, the share of tokens that each layer ran.

        Raises:
            DlskipError: Nothing was recorded.
        """
        if not self.passes:
            raise DlskipError("nothing ran", where="trace", mend=_MEND)
        return torch.stack([p.ran[p.real].sum(dim=0) for p in self.passes]).sum(dim=0) / self.tokens

    @property
    def layers_run(self) -> float:
        """Layers run per token, out of L."""
        return float(self.per_layer.sum())

    @property
    def skipped_share(self) -> float:
        """Share of all layer applications that were skipped."""
        return 1 - float(self.per_layer.mean())

    def each_token(
        self, tokenizer: PreTrainedTokenizerBase, sequences: Tensor, beam_indices: Tensor | None = None
    ) -> list[TracedToken]:
        """The last call, token by token (the last generated one never goes through the model).

        Args:
            tokenizer: For the text.
            sequences: (B, S) long, what ``generate()`` returned, or the ids given to a single forward.
            beam_indices: (B, new tokens) long, of beam search (``return_dict_in_generate=True``): beams change rows.

        Raises:
            DlskipError: Nothing was recorded, or ``sequences`` are another call's.
        """
        if not self.passes:
            raise DlskipError("nothing ran", where="trace", mend=_MEND)
        passes = self.calls[-1]
        covered = sum(p.ran.shape[1] for p in passes)
        rows = len(passes[0].ran)
        if sequences.shape[1] > covered + 1 or (beam_indices is None and len(sequences) != rows):
            raise DlskipError(
                f"sequences of shape {tuple(sequences.shape)}, but {rows} rows of {covered} tokens went last",
                where="trace", mend="give what the last generate() returned, and its beam_indices for beam search",
            )  # fmt: skip
        found: list[TracedToken] = []
        for i, ids in enumerate(sequences.tolist()):
            beams = [i] * len(passes) if beam_indices is None else beam_indices[i].tolist()
            tokens = zip(ids, runs_of_row(passes, beams), strict=False)
            ran = [(token, runs) for token, runs in tokens if runs is not None]
            found += [
                TracedToken(i, position, token, str(tokenizer.decode([token])), tuple(runs))
                for position, (token, runs) in enumerate(ran)
            ]
        return found

    def table(
        self, tokenizer: PreTrainedTokenizerBase, sequences: Tensor, beam_indices: Tensor | None = None
    ) -> pd.DataFrame:
        """``each_token`` as a table (arguments and errors: see there); needs pandas, of ``dlskip[bench]``.

        Returns:
            Columns ``row``, ``position``, ``token`` (id), ``text``, ``layers_run``, and one bool column per layer,
            named 0..L-1.
        """
        with needs("bench"):
            import pandas as pd
        found = self.each_token(tokenizer, sequences, beam_indices)
        lines = [[*one[:-1], sum(one.ran), *one.ran] for one in found]
        layers = range(len(self.per_layer))
        return pd.DataFrame(lines, columns=["row", "position", "token", "text", "layers_run", *layers])

    def __str__(self) -> str:
        calls = "1 call" if len(self.calls) == 1 else f"{len(self.calls)} calls"
        return (
            f"{calls}, {self.tokens} tokens: {self.layers_run:.1f} of {len(self.per_layer)} layers "
            f"run per token, {self.skipped_share:.0%} skipped"
        )


def runs_of_row(passes: Sequence[Traced], beams: Sequence[int]) -> Iterator[list[bool] | None]:
    """The layers that each token of a sequence ran, token by token; None for padding.

    The k-th pass's scores chose the k-th new token in row ``beams[k]``, which is where the sequence stood then; -1
    ends it.

    Examples:
        >>> import torch
        >>> one = Traced(ran=torch.tensor([[[True, False]], [[True, True]]]), real=torch.ones(2, 1).bool(), first=True)
        >>> list(runs_of_row([one, one], [1, 0]))  # the sequence stood in row 1, then in row 0
        [[True, True], [True, False]]
    """
    for one, row in zip(passes, beams, strict=False):
        if row < 0:
            return
        for runs, real in zip(one.ran[row].tolist(), one.real[row].tolist(), strict=True):
            yield runs if real else None


def _traced(last: Pass, mask: Any) -> Traced:
    runs = last.run_matrix()
    shape = (last.batch, last.tokens)
    if last.deciders is not None:  # teacher forcing: tokens of a row differ
        ran = runs[last.deciders.owner.cpu()]
        real = last.deciders.valid.cpu()
    else:
        ran = runs[:, None].expand(*shape, -1)
        padded = isinstance(mask, Tensor) and mask.dim() == 2
        real = mask[:, -last.tokens :].bool().cpu() if padded else torch.ones(shape, dtype=torch.bool)
    cache = last.cache
    first = cache is None or not cache.store or cache.get_seq_length() == last.tokens
    return Traced(ran, real, first)


@contextmanager
def trace(model: nn.Module) -> Iterator[Trace]:
    """Records which layer runs for which token in the enclosed forwards, batches and beams included.

    Examples:
        >>> with dlskip.trace(model) as report:
        ...     sequences = model.generate(**inputs, max_new_tokens=20)
        >>> print(report)
        1 call, ... tokens: ... layers run per token, ...% skipped
        >>> first = report.each_token(tokenizer, sequences)[0]
        >>> len(first.ran) == model.config.num_hidden_layers
        True
        >>> table = report.table(tokenizer, sequences)  # a row per token, a column per layer

    Decisions are copied to the host after each pass, which takes time: do not measure speed while tracing. Passes of
    the backbone alone (``skipper.disabled()``) decide nothing and are not recorded, nor are those of threads that were
    there before: they belong to other requests.

    Raises:
        DlskipError: No layer skipping is attached to ``model``.
    """
    skipper = skipper_of(model)
    report = Trace()
    others = {*threading.enumerate()} - {threading.current_thread()}

    def record(_: nn.Module, __: Any, kwargs: dict[str, Any], ___: Any) -> None:
        if skipper.enabled and threading.current_thread() not in others:
            assert skipper.last is not None  # the skipper's own hook ran before
            report.passes.append(_traced(skipper.last, kwargs.get("attention_mask")))

    handle = find_stack(model).register_forward_hook(record, with_kwargs=True)
    try:
        yield report
    finally:
        handle.remove()
