"""What happens before and after the stack runs: a pass begins with its policy, its cache and its deciders, and ends."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dlskip.errors import DlskipError
from dlskip.skip.attention import safe_attention
from dlskip.skip.attentions import completed
from dlskip.skip.cache import SkipCache
from dlskip.skip.passes import Deciders, Here, Pass
from dlskip.skip.policy import Policy

if TYPE_CHECKING:
    from dlskip.skip.model import Skipper

_CHUNKS = "prefill_chunk_size"
_ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")


@dataclass(frozen=True)
class Setting:
    """What one thread has its own passes run under.

    Args:
        policy, deciders: Of these passes.
        enabled: False: the backbone alone.
        others: Threads that were there when it was set, for which it never was meant; None = for no other at all.
    """

    policy: Policy
    deciders: Deciders | None
    enabled: bool
    others: frozenset[threading.Thread] | None


class ThreadSettings(Here):
    """As of ``Here``, and what the thread's passes run under: None = what the model's do."""

    setting: Setting | None = None
    prompt: int = 0  # tokens of the prompt that assisted decoding reads together with its first drafts
    kernels: ExitStack | None = None  # of the pass that is running

    def __deepcopy__(self, memo: dict[int, Any]) -> ThreadSettings:
        return ThreadSettings()

    def __reduce__(self) -> tuple[type[Here], tuple[()]]:
        return ThreadSettings, ()


class Settings:
    """The settings of all threads of one model."""

    def __init__(self) -> None:
        self.here = ThreadSettings()
        self._open: list[Setting] = []
        self._busy: dict[int, int] = {}  # policies that are one object for all passes -> the thread that runs one

    @contextmanager
    def set(self, policy: Policy, deciders: Deciders | None, enabled: bool, *, alone: bool) -> Iterator[None]:
        """For this thread's passes; ``alone``: the enclosed code starts no thread of its own."""
        before = self.here.setting
        others = None if alone else frozenset(threading.enumerate())
        setting = Setting(policy, deciders, enabled, others)
        self.here.setting = setting
        if others is not None:
            self._open.append(setting)
        try:
            yield
        finally:
            self.here.setting = before
            self._open[:] = [one for one in self._open if one is not setting]

    def check(self) -> None:
        """Refuses a thread that was started while another had set a policy: it may be meant for it, or not.

        Raises:
            DlskipError: That is so.
        """
        if not self._open:
            return
        mine = threading.current_thread()
        if any(one.others is not None and mine not in one.others for one in self._open):
            raise DlskipError(
                "another thread has set a policy for its own passes, and this thread was started meanwhile",
                where="skipper.using", mend="enter it in the thread that generates, or set skipper.policy for all",
            )  # fmt: skip

    def enter(self, policy: Policy) -> None:
        """Notes that this thread runs a pass under ``policy``, which has a state.

        Raises:
            DlskipError: So does another thread.
        """
        mine = threading.get_ident()
        if self._busy.setdefault(id(policy), mine) != mine:
            raise DlskipError(
                f"two threads run passes under one {type(policy).__name__}, which keeps a state", where="policy",
                mend="a policy of its own for each thread: `with skipper.using(...)` there",
            )  # fmt: skip

    def leave(self, policy: Policy) -> None:
        """Notes that the pass has ended."""
        if self._busy.get(id(policy)) == threading.get_ident():
            del self._busy[id(policy)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Settings:
        copied = Settings()
        copied.here = copy.deepcopy(self.here, memo)  # which the layers' state shares
        return copied

    def __reduce__(self) -> tuple[type[Settings], tuple[()], dict[str, Any]]:
        return Settings, (), {"here": self.here}


def begin(
    skipper: Skipper, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Begins a pass: a hook before the stack's forward.

    Raises:
        DlskipError: The pass cannot run as asked.
    """
    settings = skipper.settings
    here = settings.here
    here.current = None  # left there, if something failed between two hooks
    if here.setting is None:
        settings.check()
    elif not here.setting.enabled:
        here.kernels = ExitStack()
        here.kernels.enter_context(safe_attention(next(stack.parameters()).device))
        return args, kwargs
    if args:
        kwargs = {"input_ids": args[0], **kwargs}
        if len(args) > 1:
            raise DlskipError("call the backbone with keyword arguments", where=type(stack).__name__)
    inputs = kwargs.get("input_ids")
    inputs = kwargs.get("inputs_embeds") if inputs is None else inputs
    if inputs is None:
        raise DlskipError("neither input_ids nor inputs_embeds are given", where=type(stack).__name__)
    shape = (int(inputs.shape[0]), int(inputs.shape[1]))
    mask = kwargs.get("attention_mask")
    policy, deciders = skipper.policy, skipper.deciders
    cache = _cache(skipper, kwargs, deciders)
    price = skipper.scaled(policy.price)
    if shape[1] > 1 and deciders is None and policy.uses_heads and cache is not None:
        # Tokens after a prompt decide one by one, as in decoding, however many a pass has: drafts that are verified.
        prompt = 1 if cache.get_seq_length() else here.prompt
        if 0 < prompt < shape[1]:
            policy, deciders = policy.by_token(shape[0]), Deciders.each(shape, mask, inputs.device, prompt)
            if isinstance(price, Tensor) and price.dim():
                price = price[deciders.rows]
    if cache is not None:
        cache.fresh = None
        kwargs["past_key_values"] = cache
    elif deciders is not None:
        cache = SkipCache(store=False)  # ragged passes need the fill rule even without a cache
    own = policy.own()
    if own is policy:
        settings.enter(policy)
    try:
        here.current = Pass(own, shape, skipper.num_layers, inputs.device, mask, deciders, cache, price)
    except BaseException:
        settings.leave(own)
        raise
    here.kernels = ExitStack()
    here.kernels.enter_context(safe_attention(inputs.device))
    return (), kwargs


def _cache(skipper: Skipper, kwargs: dict[str, Any], deciders: Deciders | None) -> SkipCache | None:
    """The pass's cache: the one that is given, made fit for skipped layers, or a new one where one is wanted."""
    cache = kwargs.get("past_key_values")
    if cache is not None:
        return cache if isinstance(cache, SkipCache) else SkipCache.adopted(cache)
    use_cache = kwargs.get("use_cache")
    wanted = getattr(skipper.config, "use_cache", False) if use_cache is None else use_cache
    return skipper.new_cache() if wanted and deciders is None else None


def end(skipper: Skipper, output: Any) -> Any:
    """Ends the pass, failed or not: a hook after the stack's forward. Returns its output with all attentions."""
    here = skipper.settings.here
    current = here.current
    if here.kernels is not None:
        here.kernels.close()
        here.kernels = None
    if current is None:
        return None
    here.current = None
    here.last = skipper.latest = current
    skipper.state.counter.add(current.counter)
    skipper.settings.leave(current.policy)
    return completed(output, current, skipper.config)


def generate(skipper: Skipper, model: Any, *args: Any, **kwargs: Any) -> Any:
    """The model's own ``generate()``, which is told where a prompt ends, and leaves the model as it was.

    Raises:
        DlskipError: The prompt is to be read in chunks, whose tokens would decide before they have seen all of it.
    """
    config = kwargs.get("generation_config") or model.generation_config
    asked = {name: kwargs.get(name, getattr(config, name, None)) for name in (_CHUNKS, *_ASSISTED)}
    if asked[_CHUNKS] and skipper.enabled and skipper.policy.uses_heads:
        raise DlskipError(
            "the last token of a prompt decides for all of it, so that it cannot be read in chunks",
            where=_CHUNKS, mend="leave it out; or full depth: dlskip.full_depth, dlskip.speculate",
        )  # fmt: skip
    here = skipper.settings.here
    layers, before = skipper.config.num_hidden_layers, here.prompt
    prompts = (kwargs.get(name) for name in ("inputs", "input_ids", "inputs_embeds"))
    prompt = args[0] if args else next((x for x in prompts if x is not None), None)
    here.prompt = int(prompt.shape[1]) if prompt is not None and any(asked[name] for name in _ASSISTED) else 0
    try:
        return type(model).generate(model, *args, **kwargs)
    finally:
        here.prompt = before
        skipper.config.num_hidden_layers = layers  # which early-exit drafting leaves changed where it fails
