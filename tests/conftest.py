"""Shared by the tests of skipping: tiny models whose adapters matter, ragged batches, and the obvious reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

import dlskip
from dlskip.config import RL
from dlskip.data.batches import Batch, Encoded, collate
from dlskip.models import tuning
from dlskip.models.tiny import VOCAB, tiny
from dlskip.skip import Skipper, attach
from dlskip.skip.stack import find_layers, find_stack, output_logits
from tests.helpers import shared
from tests.helpers.published import Made, publish
from tests.helpers.sections import rl, tune

Make = Callable[..., tuple[Any, Skipper]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files start first, so that two workers end together: the pipeline's, then those with slow tests."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.get_closest_marker("workflow") is None, item.path not in slow))


@pytest.fixture(scope="session", autouse=True)
def compiled_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled code is kept for this run alone, not in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLSKIP_CACHE", str(shared.folder(tmp_path_factory, "compiled")))
        yield


def _randomise(parameters: Sequence[nn.Parameter], scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.copy_(scale * torch.randn(p.shape, generator=generator))


@pytest.fixture(scope="session")
def skipping() -> Make:
    """Makes a tiny model with skipping attached; adapters, heads and LoRA are random, since zeros hide mistakes."""

    def make(
        family: str = "llama", *, layers: int = 6, lora: bool = False, seed: int = 0, **options: Any
    ) -> tuple[Any, Skipper]:
        model: Any = tiny(family, layers=layers, seed=seed)
        if lora:
            model = tuning.make_trainable(model, tune(r=4))
            _randomise(tuning.backbone_parameters(model), 0.1, seed + 1)
        skipper = attach(model, bottleneck=8, **options)
        _randomise(skipper.adapters(), 0.2, seed + 2)
        _randomise(skipper.heads(), 1.0, seed + 3)
        with torch.no_grad():  # GELU's mean is positive: centred weights let the controllers disagree
            for head in (layer.head for layer in skipper.layers if layer.head is not None):
                head.out.weight -= head.out.weight.mean()
                head.out.bias *= 0.2
        model.requires_grad_(False)
        return model.eval(), skipper

    return make


@pytest.fixture
def made(tmp_path: Path, skipping: Make) -> Made:
    """A pipeline artifact of a tiny model."""
    return publish(tmp_path, skipping)


@pytest.fixture
def saved(made: Made, tmp_path: Path) -> Path:
    """The folder that it is published as."""
    dlskip.release(made.artifact, tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture(scope="session")
def examples() -> Callable[..., list[Encoded]]:
    """Makes random examples of the given (prompt, target) lengths."""

    def make(*lengths: tuple[int, int], seed: int = 0) -> list[Encoded]:
        generator = torch.Generator().manual_seed(seed)

        def draw(n: int) -> list[int]:
            return torch.randint(3, VOCAB, (n,), generator=generator).tolist()

        return [Encoded(draw(prompt), draw(target), "any") for prompt, target in lengths]

    return make


@pytest.fixture(scope="session")
def ragged(examples: Callable[..., list[Encoded]]) -> Callable[..., Batch]:
    """Makes a left-padded teacher-forced batch of random examples."""

    def make(*lengths: tuple[int, int], seed: int = 0) -> Batch:
        return collate(examples(*lengths, seed=seed), pad=2)

    return make


@pytest.fixture(scope="session")
def random_masks() -> Callable[..., Tensor]:
    """Makes random masks (n, L), True = run; the first and the last layer always run."""

    def make(n: int, layers: int = 6, *, p: float = 0.5, seed: int = 0) -> Tensor:
        runs = torch.rand(n, layers, generator=torch.Generator().manual_seed(seed)) >= p
        runs[:, 0] = runs[:, -1] = True
        return runs

    return make


class _MaskedCache(DynamicCache):
    """Keys and values of all tokens, those of skipping ones replaced by the layer below's (`copy`) or not."""

    def __init__(self, runs: Tensor, copy: bool) -> None:
        super().__init__()
        self.runs, self.copy = runs, copy

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if layer_idx and self.copy:
            run = self.runs[:, None, :, layer_idx, None]
            keys, values = torch.where(run, keys, self.below[0]), torch.where(run, values, self.below[1])
        self.below = (keys, values)
        return keys, values


@pytest.fixture(scope="session")
def masked_logits() -> Callable[..., Tensor]:
    """The obvious reference: computes every block on every token and multiplies by the mask.

    ``runs`` is (B, T, L), or (B, L) for whole rows. Returns the logits (N, V) at the batch's predicting tokens.
    """

    def compute(model: Any, skipper: Skipper, batch: Batch, runs: Tensor) -> Tensor:
        runs = runs if runs.dim() == 3 else runs[:, None].expand(-1, batch.input_ids.shape[1], -1)
        handles = []
        for i, block in enumerate(find_layers(model)[2]):

            def masked(_: nn.Module, args: Any, kwargs: Any, out: Any, i: int = i) -> Any:
                h = args[0] if args else kwargs["hidden_states"]
                ran = out[0] if isinstance(out, tuple) else out
                new = h + skipper.layers[i].adapter(h) + runs[:, :, i, None] * (ran - h)
                return (new, *out[1:]) if isinstance(out, tuple) else new

            handles.append(block.register_forward_hook(masked, with_kwargs=True))
        try:
            with skipper.disabled():
                cache = _MaskedCache(runs, skipper.kv_fill == "copy")
                hidden = find_stack(model)(**batch.inputs, past_key_values=cache, use_cache=True).last_hidden_state
            return output_logits(model, hidden[batch.rows, batch.tokens])
        finally:
            for handle in handles:
                handle.remove()

    return compute


@pytest.fixture(scope="session")
def rl_section() -> Callable[..., RL]:
    """Makes an ``rl`` section with overrides."""

    def make(**overrides: Any) -> RL:
        train = {"steps": 4, "batch": 4, "lr": 1e-3, "max_length": 128}
        return rl(**{"train": train, "head_lr": 1e-2} | overrides)

    return make
