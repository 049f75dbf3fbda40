"""Attaching skipping to a backbone, in place: ``skipper = attach(model, ...)``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dlskip.errors import DlskipError
from dlskip.skip.adapter import Adapter, Head
from dlskip.skip.cache import SkipCache
from dlskip.skip.hooks import Settings, begin, end, generate
from dlskip.skip.layer import SkipLayer
from dlskip.skip.passes import Counter, Deciders, Pass, State
from dlskip.skip.policy import FullDepth, Policy
from dlskip.skip.probe import probe
from dlskip.skip.stack import NAME, causal_lm, find_layers


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
        stack, _, blocks = find_layers(model)
        base = causal_lm(model)
        self.config: Any = stack.config
        self.prices = prices
        self.settings = Settings()
        self.latest: Pass | None = None  # of whatever thread
        self._policy: Policy = FullDepth()
        count = len(blocks)
        if count < 3:
            raise DlskipError(f"{count} layers leave none to skip: the first and the last always run", where="backbone")
        interfaces = probe(stack, blocks, type(base).__name__)
        self.state = State(reads, kv_fill, Counter.zeros(count), self.settings.here)
        self.replaced: list[nn.Module] = []  # modules of the backbone whose forward the fast path has replaced
        self.layers = nn.ModuleList(
            SkipLayer(block, i, interface, bottleneck, head=i < count - 2, priced=prices is not None, state=self.state)
            for i, (block, interface) in enumerate(zip(blocks, interfaces, strict=True))
        )
        self._model: tuple[Any] = (base,)  # a tuple hides it from nn.Module's registration
        if hasattr(base, "generate"):
            base.generate = self.generate
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
    def policy(self) -> Policy:
        """Who decides in this thread's passes: what ``using`` has set here, or else what was set for all threads."""
        setting = self.settings.here.setting
        return self._policy if setting is None else setting.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        here = self.settings.here
        if here.setting is None:
            self._policy = policy
        else:
            here.setting = replace(here.setting, policy=policy)

    @property
    def deciders(self) -> Deciders | None:
        """The deciding tokens of this thread's passes; None = the last one of each row."""
        setting = self.settings.here.setting
        return None if setting is None else setting.deciders

    @property
    def last(self) -> Pass | None:
        """The last pass of this thread, or else of any."""
        mine = self.settings.here.last
        return self.latest if mine is None else mine

    @property
    def enabled(self) -> bool:
        """Whether adapters and skipping are on in this thread; False inside of ``disabled``."""
        setting = self.settings.here.setting
        return setting is None or setting.enabled

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
    def using(self, policy: Policy, deciders: Deciders | None = None, *, alone: bool = False) -> Iterator[Policy]:
        """Runs this thread's enclosed forwards under ``policy``.

        Other threads that were there before go on as they did. One that is started meanwhile is refused, as it is not
        known whether it is meant: enter ``using`` there, or set ``skipper.policy``, which is for all threads.

        Args:
            policy: Who decides.
            deciders: The deciding tokens of a teacher-forced batch.
            alone: The enclosed code starts no threads: those that others start meanwhile are not refused.
        """
        with self.settings.set(policy, deciders, self.enabled, alone=alone):
            yield policy

    @contextmanager
    def full_depth(self, *, alone: bool = False) -> Iterator[None]:
        """Runs the enclosed forwards with every layer (adapters stay on); ``alone``: as of ``using``."""
        with self.using(FullDepth(), alone=alone):
            yield

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Runs the enclosed forwards as the bare backbone: no adapters, no skipping."""
        with self.settings.set(self.policy, self.deciders, False, alone=False):
            yield

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
        vars(self._model[0]).pop("generate", None)
        delattr(causal_lm(model), NAME)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own ``generate()``; errors: see ``dlskip.skip.hooks.generate``."""
        return generate(self, self._model[0], *args, **kwargs)

    def _begin(
        self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return begin(self, stack, args, kwargs)

    def _end(self, stack: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return end(self, output)


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
        DlskipError: The model is no decoder-only one, its layers cannot be skipped one by one (the message says why),
            it has fewer than 3, or skipping is attached already.
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
