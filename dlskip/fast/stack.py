"""The stack's forward for inference: decisions, adapters and blocks in one loop, for the families that it knows.

It is tested against the eager path, which runs whatever it does not support: training, other families, ragged passes,
listeners inside the layers, outputs of every layer.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

from dlskip.fast.adapter import FastAdapter
from dlskip.fast.block import DECODER_LAYERS, FastBlock, LayerInputs, normed, supported
from dlskip.fast.compiled import Call, compiled_product
from dlskip.fast.recorded import DEVICES, StepsByBatch
from dlskip.fast.runner import run_blocks
from dlskip.fast.single import SingleToken
from dlskip.skip import Skipper, skipper_of
from dlskip.skip.passes import Pass
from dlskip.skip.stack import causal_lm, find_layers, find_stack

_IGNORED = {"return_dict", "cache_position", "num_items_in_batch"}  # no decoder layer of these families reads them
_LOOKING = threading.Lock()  # two threads must not lay out the same weights
_SWITCHING = threading.Lock()
_SWITCHED: list[bool] = []  # what oneDNN was before, and an entry for each that needs it off
_EVERY_LAYER = ("output_attentions", "output_hidden_states")


def use_fast_path(model: nn.Module, *, compile: bool = False) -> bool:
    """Gives a model with skipping attached the fast path, where its family has one; returns whether it has.

    The weights stay the modules' own (those of Q, K and V become views of one tensor); ``generate()``, hooks and PEFT
    see the same tree, and what the fast path does not support takes the eager path. Called again, it switches
    compiled code on or off from the next prompt on.

    Args:
        model: The model.
        compile: On a CPU, run single tokens of single rows through compiled code, which needs a C++ compiler: about a
            minute when a shape is first met, from the disk afterwards. On CUDA, decode through recorded graphs, which
            takes some tenths of a second for every number of rows, up to 32, that is first met.

    Raises:
        DlskipError: No layer skipping is attached to ``model``, or its code could not be compiled.
    """
    skipper = skipper_of(model)
    blocks = find_layers(model)[2]
    if type(blocks[0]).__name__ not in DECODER_LAYERS:
        if compile:
            warnings.warn(f"nothing to compile: needs one of {', '.join(DECODER_LAYERS)}", stacklevel=2)
        return False
    stack: Any = find_stack(model)
    output: Any = causal_lm(model).get_output_embeddings()
    fast = getattr(stack.forward, "__self__", None)
    if not isinstance(fast, FastStack):
        fast = FastStack(stack, skipper, blocks)
        stack.forward = fast.forward
        skipper.replaced.append(stack)
        if type(output) is nn.Linear and output.bias is None:
            output.forward = FastHead(output, fast).forward
            skipper.replaced.append(output)
    fast.compile = compile
    if compile and not fast.compiles():
        warnings.warn("nothing to compile: needs kv_fill copy and controllers that read inputs", stacklevel=2)
    if fast.single is not None and isinstance(head := getattr(output.forward, "__self__", None), FastHead):
        head.product()  # now, not at the first token
    return True


@dataclass(frozen=True)
class Made:
    """The layers as the fast path runs them; without any it runs nothing.

    Args:
        blocks, adapters: Of all layers.
        single: Compiled code for one token of one row.
        recording: Whether single tokens are sent to the device as recorded work.
    """

    blocks: list[FastBlock] = field(default_factory=list)
    adapters: list[FastAdapter] = field(default_factory=list)
    single: SingleToken | None = None
    recording: bool = False


class FastStack:
    """A Llama-shaped stack's forward.

    Args:
        stack: Embedding, layers and final norm.
        skipper: Its skipping.
        blocks: Its layers.
    """

    def __init__(self, stack: Any, skipper: Skipper, blocks: nn.ModuleList) -> None:
        self.stack = stack
        self.skipper = skipper
        self.modules = blocks
        self.compile = False  # whether single tokens take compiled code, where they can
        self._eager: Callable[..., Any] = stack.forward
        self._made = Made()  # replaced whole, so that a pass of another thread goes on with what it has
        self.recorded: StepsByBatch | None = None  # kept when compiled code is switched off for a while

    @property
    def single(self) -> SingleToken | None:
        """Compiled code for single tokens, if there is any."""
        return self._made.single

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the stack's own: ids (B, T) to the last hidden state (B, T, D)."""
        current = self.skipper.state.current
        cache = None if current is None else current.cache
        made = None if current is None else self._may(current, attention_mask, kwargs)
        if current is None or made is None:
            return self._eager(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                past_key_values=past_key_values, inputs_embeds=inputs_embeds, use_cache=use_cache, **kwargs,
            )  # fmt: skip
        h: Tensor = self.stack.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        past = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + h.shape[1], device=h.device)[None]
        rope = self.stack.rotary_emb(h, position_ids=position_ids)
        inputs = LayerInputs.of(rope, self._mask(h, attention_mask, cache, position_ids), h)
        with _without_onednn(inputs.single):
            h = self._runner(made, h, inputs, current, past)(h, inputs, current)
            h = normed(self.stack.norm, h, inputs.single)
        return BaseModelOutputWithPast(last_hidden_state=h, past_key_values=past_key_values)

    def _runner(
        self, made: Made, h: Tensor, inputs: LayerInputs, current: Pass, past: int
    ) -> Callable[[Tensor, LayerInputs, Pass], Tensor]:
        """What runs the layers."""
        if inputs.single and made.single is not None:
            return made.single
        if made.recording and self.recorded is not None and past and h.shape[1] == 1:
            steps = self.recorded.of(len(h), past + 1, current.policy)
            if steps is not None:
                return steps
        return partial(run_blocks, made.blocks, made.adapters, self.skipper.state)

    def _may(self, current: Pass, mask: Any, kwargs: dict[str, Any]) -> Made | None:
        """What this pass can take the fast path with, if it can; looks at the layers once per prompt."""
        if torch.is_grad_enabled() or current.deciders is not None or current.policy.uses_similarity:
            return None
        config = self.skipper.config
        if any(kwargs.get(name, getattr(config, name, False)) for name in _EVERY_LAYER):
            return None
        padding = mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)
        if not padding or kwargs.keys() - _IGNORED - set(_EVERY_LAYER):
            return None
        if config.num_hidden_layers != len(self.modules):  # an early exit drafts
            return None
        if current.tokens > 1 or current.cache is None or not current.cache.get_seq_length():
            self._look(config)
        made = self._made
        return made if made.blocks else None

    def compiles(self) -> bool:
        """Whether single tokens take compiled or recorded code; compiles it, if this is its first use."""
        self._look(self.skipper.config)
        return self._made.single is not None or self._made.recording

    def _look(self, config: Any) -> None:
        with _LOOKING:
            self._made = self._looked(config)

    def _looked(self, config: Any) -> Made:
        known = config._attn_implementation in ("sdpa", "eager")
        whole = not getattr(config, "sliding_window", None)
        whole = whole and all("full" in kind for kind in getattr(config, "layer_types", None) or ["full"])
        if not (known and whole and all(supported(block) for block in self.modules)):
            return Made()
        blocks = [FastBlock(block, i) for i, block in enumerate(self.modules)]
        adapters = self._made.adapters
        if not (adapters and all(adapter.holds() for adapter in adapters)):
            adapters = [FastAdapter(layer) for layer in self.skipper.each_layer()]
        if self.compile and _whole(self.skipper):
            devices = {block.qkv.device for block in blocks}
            device = blocks[0].qkv.device.type
            if device in DEVICES and len(devices) == 1:
                if self.recorded is None or not self.recorded.fits(blocks, self.skipper):
                    self.recorded = StepsByBatch(blocks, self.skipper)
                return Made(blocks, adapters, recording=True)
            if device == "cpu":
                return Made(blocks, adapters, SingleToken(blocks, self.skipper))
        return Made(blocks, adapters)

    def _mask(self, h: Tensor, mask: Tensor | None, cache: Any, position_ids: Tensor) -> Tensor | None:
        if h.shape[1] > 1:
            made: Any = create_causal_mask(
                config=self.skipper.config, inputs_embeds=h, attention_mask=mask, past_key_values=cache,
                position_ids=position_ids,
            )  # fmt: skip
            causal: Tensor | None = made
            return causal
        if mask is None or (mask.device.type == "cpu" and bool(mask.all())):
            return None
        return mask.bool()[:, None, None, :]


def _whole(skipper: Skipper) -> bool:
    """Whether there are adapters and controllers everywhere, read before a layer: what compiled code computes."""
    there = bool(skipper.bottleneck) and len(skipper.controllers()) == skipper.num_layers - 2
    return there and skipper.reads == "input" and skipper.kv_fill == "copy"


class FastHead:
    """An output layer for the last tokens of a batch, (B, 1, D) cut out of (B, T, D).

    One row is multiplied as a vector, which on a CPU is two to three times as fast. Several lie apart in memory, and
    torch would multiply each of them by itself where nothing needs a gradient: they are gathered first.

    Args:
        linear: The layer.
        stack: Knows whether one row on a CPU takes compiled code.
    """

    def __init__(self, linear: nn.Linear, stack: FastStack) -> None:
        self.linear = linear
        self.stack = stack

    def product(self) -> Call:
        """The compiled product with one vector, compiled if this is its first use."""
        weight = self.linear.weight
        return compiled_product(*weight.shape, weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., V)."""
        weight = self.linear.weight
        if torch.is_grad_enabled():
            return F.linear(x, weight)
        if x.numel() == x.shape[-1] and x.device.type == "cpu":
            row = x.reshape(-1)
            if self.stack.single is not None:
                (y,) = self.product()([weight, row])
            else:
                with _without_onednn(True):
                    y = torch.mv(weight, row)
            return y.view(*x.shape[:-1], -1)
        if x.dim() < 3:
            return F.linear(x, weight)
        return F.linear(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)


@contextmanager
def _without_onednn(single: bool) -> Iterator[None]:
    """oneDNN sets up every product of one row anew, for 10 to 20 us; torch's own kernels do not.

    It is switched for the whole process, and on again by the last thread that needs it off.
    """
    if not single:
        yield
        return
    onednn: Any = torch.backends.mkldnn
    with _SWITCHING:
        if not _SWITCHED:
            _SWITCHED.append(onednn.enabled)
            onednn.enabled = False
        _SWITCHED.append(True)
    try:
        yield
    finally:
        with _SWITCHING:
            _SWITCHED.pop()
            if len(_SWITCHED) == 1:
                onednn.enabled = _SWITCHED.pop()
