"""What a model's ``generation_config`` asks of decoding, for loops that are not ``generate()``: the same tokens.

Many chat models come with a repetition penalty, suppressed tokens, several end tokens or sampling options of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, PreTrainedTokenizerBase

from dlskip.errors import DlskipError
from dlskip.skip.stack import causal_lm

# What needs more than the tokens so far and their logits, with the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "guidance_scale": (None, 1, 1.0), "watermarking_config": (None,), "stop_strings": (None,), "max_time": (None,),
    "encoder_repetition_penalty": (None, 1, 1.0), "encoder_no_repeat_ngram_size": (None, 0),
}  # fmt: skip

_APPLIED: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1, 1.0), "no_repeat_ngram_size": (None, 0), "bad_words_ids": (None,),
    "sequence_bias": (None,), "min_length": (None, 0), "min_new_tokens": (None, 0), "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,), "suppress_tokens": (None,), "begin_suppress_tokens": (None,),
    "exponential_decay_length_penalty": (None,), "remove_invalid_values": (None, False),
}  # fmt: skip


class Rules:
    """Changes logits as ``generate()`` does, row by row.

    Examples:
        >>> rules = Rules(model, torch.ones(1, 3), max_new_tokens=8)
        >>> rules([[5, 6, 7]], [0], torch.zeros(1, 384)).shape
        torch.Size([1, 384])

    Args:
        model: A causal LM.
        mask: (B, T) of 0/1, of the left-padded prompts.
        max_new_tokens: Longest output.
        options: Of ``generate()``, in the place of those of ``generation_config``: ``do_sample``, ``eos_token_id``, ...

    Raises:
        DlskipError: ``generation_config`` asks for something that only ``generate()`` can do, or is out of range.
    """

    def __init__(self, model: nn.Module, mask: Tensor, max_new_tokens: int, **options: Any) -> None:
        base: Any = causal_lm(model)
        options = {"num_beams": 1, "do_sample": False, **options}
        config, _ = base._prepare_generation_config(None, **options)
        for name, nothing in _REFUSED.items():
            if getattr(config, name, None) not in nothing:
                raise DlskipError(
                    f"{name} of generation_config is not applied here", where="generation_config",
                    mend=f"model.generation_config.{name} = {nothing[-1]}, or model.generate()",
                )  # fmt: skip
        config.max_length = mask.shape[1] + max_new_tokens
        if config.pad_token_id is None:
            config.pad_token_id = 0  # unused: else a remark is printed
        try:
            base._prepare_special_tokens(config, kwargs_has_attention_mask=True, device=mask.device)
            self.rows: list[LogitsProcessorList] = [
                base._get_logits_processor(
                    config, input_ids_seq_length=mask.shape[1], device=str(mask.device),
                    model_kwargs={"attention_mask": mask[row : row + 1]},
                )
                for row in range(len(mask))
            ]  # fmt: skip
        except (ValueError, TypeError) as error:
            raise DlskipError(str(error), where="generation_config", mend="see generate()'s own options") from error

    def __bool__(self) -> bool:
        return any(self.rows)

    def __call__(self, ids: Sequence[Sequence[int]], rows: Sequence[int], logits: Tensor) -> Tensor:
        """Logits (B', V) float32 after these rules.

        Args:
            ids: Of each row the prompt, padded as it was given, and all tokens after it.
            rows: Which of the B prompts each row is.
            logits: (B', V) float32 of the tokens that follow.
        """
        if not self:
            return logits
        ruled = []
        for line, row, one in zip(ids, rows, logits, strict=True):
            so_far: Any = torch.tensor([list(line)], device=logits.device)
            ruled.append(self.rows[row](so_far, one[None].clone()))
        return torch.cat(ruled)


def asks(model: Any) -> bool:
    """Whether a model's ``generation_config`` asks for anything that changes logits: known without making ``Rules``.

    Examples:
        >>> asks(backbone)
        False
    """
    config = causal_lm(model).generation_config
    return any(getattr(config, name, None) not in nothing for name, nothing in (_REFUSED | _APPLIED).items())


def special(
    model: Any, tokenizer: PreTrainedTokenizerBase | None = None, eos: int | Iterable[int] | Tensor | None = None,
    pad: int | None = None,
) -> tuple[list[int], int]:  # fmt: skip
    """The ids that end a row, and the one that fills it up, which is of no use without the former.

    Examples:
        >>> special(model, eos=[1, 5])[0]
        [1, 5]

    Args:
        model: Its ``generation_config`` may name several end tokens, which all count.
        tokenizer: Its end token counts too.
        eos: In their place; an empty sequence = none.
        pad: As given, or else the tokenizer's, the model's, an end token.
    """
    config = causal_lm(model).generation_config
    stops = _ids(config.eos_token_id) if eos is None else _ids(eos)
    if tokenizer is not None and eos is None:
        stops += [token for token in _ids(tokenizer.eos_token_id) if token not in stops]
    known = (pad, None if tokenizer is None else tokenizer.pad_token_id, config.pad_token_id, *stops, 0)
    return stops, int(next(token for token in known if token is not None))


def _ids(given: Any) -> list[int]:
    if given is None:
        return []
    if isinstance(given, Tensor):
        return [int(token) for token in given.flatten().tolist()]
    return [given] if isinstance(given, int) else [int(token) for token in given]


def check_room(model: Any, tokens: int) -> None:
    """Whether so many tokens, prompt and output together, have positions in the model.

    Examples:
        >>> check_room(model, 512)

    Raises:
        DlskipError: They have none: the model learned a table of them that ends before.
    """
    config = causal_lm(model).config.get_text_config(decoder=True)
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if most is None or tokens <= most:
        return
    learned = any(
        isinstance(module, nn.Embedding) and name.endswith(("wpe", "embed_positions", "position_embeddings"))
        for name, module in causal_lm(model).named_modules()
    )
    if learned:
        raise DlskipError(
            f"{tokens} tokens, prompt and output together, but the model has {most} positions",
            where=type(causal_lm(model)).__name__, mend="a shorter prompt, or fewer new tokens",
        )  # fmt: skip
