"""The sections of params.yaml that say what is run, on what, and how it is measured and drawn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]  # part of paths and of DVC's keys


class Section(BaseModel):
    """A section of params.yaml: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Grid(Section):
    """The cells that are run: every method on every backbone with every seed."""

    backbones: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    methods: list[Name] = Field(min_length=1, description="what is evaluated: rows of the tables, in their order")
    baselines: list[Name] = Field([], description="those of them that stage `baselines` makes")
    trained: list[Name] = Field([], description="those of the baselines that train a model for each share")
    ablations: list[Name] = Field([], description="those of them that stage `ablations` trains")
    timed: list[Name] = Field([], description="those of them whose speed is measured")


class Backbone(Section):
    """A backbone by name: the embedded SmolLM2, a random ``tiny-*``, a local directory or a hub id."""

    source: str = Field(description="'smollm2', 'tiny-llama|gpt2|opt|falcon|...', a directory, or a hub id")
    revision: str | None = Field(None, description="hub commit; pinned for reproducibility")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False


class Tune(Section):
    """How the backbone's weights are trained (docs/method.md §3): LoRA, 4-bit NF4 + LoRA, or all of them."""

    mode: Literal["lora", "qlora", "full"] = "lora"
    r: int = Field(16, ge=1, description="LoRA rank; the paper's 16")
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    targets: Literal["attention", "all-linear"] = "all-linear"


class Model(Section):
    """Adapters and controllers around every layer (docs/method.md §1-2)."""

    tune: Tune
    bottleneck: int = Field(64, ge=1, description="r of the adapter's D->r->D MLP (eq 5)")
    controller_reads: Literal["input", "output"] = Field("input", description="eq 10: A_l of the layer's input/output")
    kv_fill: Literal["copy", "project"] = Field("copy", description="keys of a skipped layer (docs/method.md §6)")
    prices: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None, description="range of lambda that RL draws from and tells the controllers; null: rl.price, untold"
    )

    @model_validator(mode="after")
    def _prices_are_a_range(self) -> Model:
        if self.prices is not None and self.prices[0] >= self.prices[1]:
            raise ValueError(f"prices must rise, got {list(self.prices)}")
        return self


class Prepare(Section):
    """Which rows are used and how they are written as prompts."""

    source: Literal["embedded", "jsonl", "hub"] = "embedded"
    path: str | None = Field(None, description="directory of the jsonl source")
    seed: int = 0
    nlu: list[str]
    mt: list[str]
    prompts: Literal["paper", "short"] = "short"
    train: int = Field(ge=1, description="training rows per task, at most")
    train_mt: int | None = Field(None, ge=1, description="training rows per translation task; null: as `train`")
    validation: int = Field(ge=1, description="validation rows per task, at most")
    test: int = Field(ge=1, description="test rows per NLU task, at most")
    test_mt: int = Field(ge=1, description="test rows per translation task, at most")
    instructions: int = Field(ge=1, description="instruction rows for the adapters' initialisation")
    max_chars: int = Field(ge=16, description="rows whose prompt + target is longer are left out (and counted)")

    @model_validator(mode="after")
    def _jsonl_needs_path(self) -> Prepare:
        if self.source == "jsonl" and not self.path:
            raise ValueError("source 'jsonl' needs `path`, a directory with one folder per data set")
        return self


class Train(Section):
    """One training run: how long, how large, how fast."""

    steps: int | None = Field(None, ge=1, description="optimizer steps; give this or `epochs`")
    epochs: float | None = Field(None, gt=0)
    batch: int = Field(ge=1, description="examples per optimizer step, over all processes")
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps")
    decay: Literal["linear", "cosine", "constant"] = "linear"
    clip: float = Field(1.0, gt=0, description="gradient norm")
    max_length: int = Field(1024, ge=8, description="tokens per example; longer prompts are cut from the left")
    checkpoint_every: int = Field(25, ge=1, description="steps between resumable checkpoints")
    log_every: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Train:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        return self


class Speed(Section):
    """How prefill (of understanding prompts) and decoding (of translations) are timed; a batch mixes the tasks."""

    batches: list[Literal[1, 8, 16]] = Field(min_length=1, description="rows per batch")
    rows: int = Field(8, ge=1, description="prompts timed, where each has a depth of its own; at least one batch")
    tokens: int = Field(8, ge=1, description="tokens decoded after the prompt's own")
    repeats: int = Field(3, ge=1, description="runs of each, alternating with full depth; the median counts")


class Evaluate(Section):
    """What is measured, and over which settings."""

    split: Literal["test", "validation"] = "test"
    thresholds: list[float] = Field(min_length=1, description="settings of ours and of its ablations")
    prices: list[PositiveFloat] = Field([], description="settings of variants with `model.prices`")
    shares: list[float] = Field(min_length=1, description="settings of the baselines: share of all layers to skip")
    batches: list[Literal[1, 8, 16, "per_sample"]] = Field(min_length=1, description="majority over 8 or 16")
    per_sample_batch: int = Field(8, ge=1, description="rows per batch for vanilla, random and per_sample")
    random_control: bool = True
    max_new_tokens: int = Field(48, ge=1, description="longest translation")
    traces: int = Field(2, ge=0, description="sentences per translation task whose per-token depth is kept")

    @model_validator(mode="after")
    def _thresholds_are_probabilities(self) -> Evaluate:
        if bad := [t for t in self.thresholds if not 0 <= t <= 1]:
            raise ValueError(f"thresholds must lie in [0, 1], got {bad}")
        if bad := [s for s in self.shares if not 0 < s < 1]:
            raise ValueError(f"shares must lie between 0 and 1, got {bad}")
        return self


class Figures(Section):
    """How the report is drawn."""

    dpi: int = Field(160, ge=50)
    headline_threshold: float | None = Field(
        None, description="one of evaluate.thresholds; null: the best setting that skips >= 25 %"
    )
