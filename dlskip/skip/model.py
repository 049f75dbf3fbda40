"""Attaching skipping to a backbone, in place: ``skipper = attach(model, ...)``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from dlskip.errors import DlskipError
from dlskip.skip.adapter import Adapter, Head
from dlskip.skip.attention import safe_attention
from dlskip.skip.cache import SkipCache
from dlskip.skip.layer import SkipLayer
from dlskip.skip.passes import Counter, Deciders, Pass, State
from dlskip.skip.policy import FullDepth, Policy
from dlskip.skip.stack import causal_lm, find_layers, find_stack

NAME = "dlskip"  # the attribute of the causal LM that holds the Skipper


class Skipper(nn.Module):
    """The adapters, heads and skipping state of one model.

    Examples:
        >>> skipper = skipper_of(model)
        >>> with skipper.disabled():  # the backbone alone
        ...     out = model(**inputs)
        >>> with skipper.full_depth():  # with adapters, and nothing skipped
        ...     out = model(**inputs)
        >>> skipper.last.run_matrix().all()  # which layers the last pass ran, (N, L)
        tensor(True)

    Args:
        model: A decoder-only Transformers model, PEFT-wrapped or not.
        bottleneck: r of the adapters; 0 attaches none, and no controllers: for masks that are given.
        reads: Whether a controller reads its layer's input (the decision is known before the layer has run) or output.
        kv_fill: ``copy`` fills keys/values from the layer below (the paper's); ``project`` from the layer's own K/V.
        prices: Lowest and highest price of a layer (lambda) that the controllers are trained for and conditioned on;
            None = they take no price.
    """

    def __init__(
        self,
        model: nn.Module,
        bottleneck: int,
        reads: Literal["input", "output"] = "input",
        kv_fill: Literal["copy", "project"] = "copy",
        prices: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        _, _, blocks = find_layers(model)
        stack = find_stack(model)
        config: Any = stack.config
        self.config = config
        self.prices = prices
        self.policy: Policy = FullDepth()
        self.deciders: Deciders | None = None
        self.last: Pass | None = None
        count = len(blocks)
        dim = int(config.hidden_size)
        if count < 3:
            raise DlskipError(f"{count} layers leave none to skip: the first and the last always run", where="backbone")
        falcon = config.model_type == "falcon"  # its blocks return (hidden, attention weights)
        self.state = State(reads, kv_fill, Counter.zeros(count), tuple_output=falcon)
        self.replaced: list[nn.Module] = []  # modules of the backbone whose forward the fast path has replaced
        self.layers = nn.ModuleList(
            SkipLayer(block, i, dim, bottleneck, head=i < count - 2, priced=prices is not None, state=self.state)
            for i, block in enumerate(blocks)
        )
        self._kernels = ExitStack()  # of the pass that is running
        self._hooks = (
            stack.register_forward_pre_hook(self._begin, with_kwargs=True),
            stack.register_forward_hook(self._end, always_call=True),
        )

    @property
    def num_layers(self) -> int:
        """The number of layers, L."""
        return len(self.layers)

    @property
    def reads(self) -> Literal["input", "output"]:
        """What a controller reads of its layer."""
        return self.state.reads

    @property
    def kv_fill(self) -> Literal["copy", "project"]:
        """What a skipped layer leaves in the cache."""
        return self.state.kv_fill

    @property
    def counter(self) -> Counter:
        """Tokens that each layer ran since ``reset_counter``."""
        return self.state.counter

    @property
    def enabled(self) -> bool:
        """Whether adapters and skipping are on; False inside of ``disabled``."""
        return self.state.enabled

    def layer(self, index: int) -> SkipLayer:
        """Adapter and head of layer ``index``."""
        layer = self.layers[index]
        assert isinstance(layer, SkipLayer)
        return layer

    def each_layer(self) -> list[SkipLayer]:
        """Adapters and heads of all layers, from the first."""
        return [self.layer(index) for index in range(self.num_layers)]

    @property
    def bottleneck(self) -> int:
        """The adapters' inner size r; 0 if there are no adapters."""
        adapter = self.layer(0).adapter
        return 0 if adapter is None else adapter.down.out_features

    def adapters(self, *, controlling: bool = False) -> list[nn.Parameter]:
        """The adapters' parameters; ``controlling``: only of layers that decide about the next one."""
        chosen = [layer.adapter for layer in self.each_layer() if not controlling or layer.head is not None]
        return [p for adapter in chosen if adapter is not None for p in adapter.parameters()]

    def controllers(self) -> list[tuple[Adapter, Head]]:
        """Adapter and head of every layer that decides about the next one."""
        pairs = ((layer.adapter, layer.head) for layer in self.each_layer())
        return [(adapter, head) for adapter, head in pairs if adapter is not None and head is not None]

    def heads(self) -> list[nn.Parameter]:
        """The controller heads' parameters."""
        return [p for _, head in self.controllers() for p in head.parameters()]

    def init_heads(self, p: float) -> None:
        """Makes every fresh head skip with probability ``p``."""
        for _, head in self.controllers():
            head.init_skip(p)

    def scaled(self, price: Tensor | float | None) -> Tensor | float:
        """A price on the logarithmic scale of its range: -1 at the lowest, 1 at the highest; 0 for None.

        Examples:
            >>> skipper = attach(backbone, bottleneck=8, prices=(0.25, 4.0))
            >>> skipper.scaled(0.25), skipper.scaled(1.0), skipper.scaled(4.0)
            (-1.0, 0.0, 1.0)

        Raises:
            DlskipError: The controllers take no price, or it lies outside the range they were trained for.
        """
        if price is None:
            return 0.0
        if self.prices is None:
            raise DlskipError("these controllers take no price", where="price", mend="use a threshold")
        low, high = self.prices
        middle, reach = math.sqrt(low * high), math.log(high / low) / 2
        x = (price / middle).log() / reach if isinstance(price, Tensor) else math.log(price / middle) / reach
        if float(abs(x).max() if isinstance(x, Tensor) else abs(x)) > 1 + 1e-4:
            raise DlskipError(f"{price} lies outside the range trained for", where="price", mend=f"{low:g} to {high:g}")
        return x

    def cast_adapters(self, dtype: torch.dtype) -> None:
        """Keeps the adapters in the hidden states' dtype: for inference, which then casts nothing per call."""
        for parameter in self.adapters():
            parameter.data = parameter.data.to(dtype)

    @contextmanager
    def using(self, policy: Policy, deciders: Deciders | None = None) -> Iterator[Policy]:
        """Runs the enclosed forwards under ``policy``."""
        before = self.policy, self.deciders
        self.policy = policy
        self.deciders = deciders
        try:
            yield policy
        finally:
            self.policy, self.deciders = before

    @contextmanager
    def full_depth(self) -> Iterator[None]:
        """Runs the enclosed forwards with every layer (adapters stay on)."""
        with self.using(FullDepth()):
            yield

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Runs the enclosed forwards as the bare backbone: no adapters, no skipping."""
        before, self.state.enabled = self.state.enabled, False
        try:
            yield
        finally:
            self.state.enabled = before

    def reset_counter(self) -> None:
        """Sets the counter of computed tokens to zero."""
        self.state.counter = Counter.zeros(self.num_layers)

    def new_cache(self) -> SkipCache:
        """An empty cache that knows the KV-fill rule; ``generate()`` makes one by itself."""
        return SkipCache(self.config)

    def detach_from(self, model: nn.Module) -> None:
        """Gives the backbone back as it was."""
        for layer in self.each_layer():
            layer.restore()
        for hook in self._hooks:
            hook.remove()
        for module in self.replaced:
            del module.forward
        delattr(causal_lm(model), NAME)

    def _begin(
        self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self.enabled:
            self._kernels.enter_context(safe_attention(next(stack.parameters()).device))
            return args, kwargs
        if args:
            kwargs = {"input_ids": args[0], **kwargs}
            if len(args) > 1:
                raise DlskipError("call the backbone with keyword arguments", where=type(stack).__name__)
        inputs = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
        cache = kwargs.get("past_key_values")
        use_cache = kwargs.get("use_cache")
        if cache is None and (self.config.use_cache if use_cache is None else use_cache) and self.deciders is None:
            cache = self.new_cache()
        elif cache is not None and not isinstance(cache, SkipCache):
            cache = self._adopt(cache)
        if cache is not None:
            cache.fresh = None
            kwargs["past_key_values"] = cache
        elif self.deciders is not None:
            cache = SkipCache(store=False)  # ragged passes need the fill rule even without a cache
        self.state.current = Pass(
            self.policy, tuple(inputs.shape[:2]), self.num_layers, inputs.device, kwargs.get("attention_mask"),
            self.deciders, cache, self.scaled(self.policy.price),
        )  # fmt: skip
        self._kernels.enter_context(safe_attention(inputs.device))
        return (), kwargs

    def _end(self, stack: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.last = self.state.current or self.last
        self.state.current = None
        self._kernels.close()

    def _adopt(self, cache: Any) -> SkipCache:
        """Replaces the empty cache that ``generate()`` makes by one that knows the fill rule."""
        if type(cache) is DynamicCache and cache.get_seq_length() == 0:
            return self.new_cache()
        raise DlskipError(
            f"a {type(cache).__name__} cannot hold keys and values of skipped layers",
            where="past_key_values",
            mend="pass none, an empty DynamicCache, or skipper.new_cache()",
        )


def attach(model: PreTrainedModel | nn.Module, **options: Any) -> Skipper:
    """Wraps the decoder layers of ``model`` in place and returns its ``Skipper`` (options: see there).

    A fresh attachment changes nothing: adapters start at zero and the policy is full depth, so logits are bit for bit
    the backbone's. Add LoRA before attaching.

    Examples:
        >>> from dlskip.skip import Threshold, attach
        >>> skipper = attach(backbone, bottleneck=8)
        >>> skipper.init_heads(0.3)  # fresh controllers skip with probability 0.3
        >>> with skipper.using(Threshold(0.25)), torch.no_grad():
        ...     out = backbone(input_ids=torch.tensor([[5, 6, 7]]))
        >>> skipper.counter.ran  # tokens that each layer ran: the first and the last always do
        [3, 0, 0, 0, 0, 3]

    Raises:
        DlskipError: The model is no decoder-only one, has fewer than 3 layers, or is attached already.
    """
    base = causal_lm(model)
    if hasattr(base, NAME):
        raise DlskipError("layers are wrapped already", where=type(base).__name__, mend="use skipper_of(model)")
    skipper = Skipper(model, **options)
    parameter: Tensor = next(base.parameters())
    setattr(base, NAME, skipper.to(parameter.device))
    return skipper


def skipper_of(model: nn.Module) -> Skipper:
    """The ``Skipper`` attached to ``model``.

    Examples:
        >>> from dlskip.skip import Threshold, skipper_of
        >>> skipper_of(model).policy = Threshold(0.7)  # from now on

    Raises:
        DlskipError: None is attached.
    """
    skipper = getattr(causal_lm(model), NAME, None)
    if not isinstance(skipper, Skipper):
        raise DlskipError(
            "no layer skipping is attached", where=type(model).__name__, mend="call dlskip.skip.attach(model)"
        )
    return skipper
