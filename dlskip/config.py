"""params.yaml as typed, validated objects.

Every hyperparameter of the project is declared here once, with its range and its source in the paper. An unknown key,
a wrong type or a value out of range stops with the key's path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dlskip.cli import stage
from dlskip.errors import DlskipError, offences

PARAMS = Path("params.yaml")
Share = Field(ge=0.0, le=1.0)
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]  # part of paths and of DVC's keys


class Section(BaseModel):
    """A section of params.yaml: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Grid(Section):
    """The cells that are run: every method on every backbone with every seed."""

    backbones: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    methods: list[Literal["vanilla", "ours"]] = Field(min_length=1)


class Backbone(Section):
    """A backbone by name: the embedded SmolLM2, a random ``tiny-*``, a local directory or a hub id."""

    source: str = Field(description="'smollm2', 'tiny-llama|gpt2|opt|falcon|...', a directory, or a hub id")
    revision: str | None = Field(None, description="hub commit; pinned for reproducibility")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False


class Tune(Section):
    """How the backbone's weights are trained (method §3): LoRA, 4-bit NF4 + LoRA, or all of them."""

    mode: Literal["lora", "qlora", "full"] = "lora"
    r: int = Field(16, ge=1, description="LoRA rank; the paper's 16")
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    targets: Literal["attention", "all-linear"] = "all-linear"


class Model(Section):
    """Adapters and controllers around every layer (method §1-2)."""

    tune: Tune
    bottleneck: int = Field(64, ge=1, description="r of the adapter's D->r->D MLP (eq 5)")
    controller_reads: Literal["input", "output"] = Field("input", description="eq 10: A_l of the layer's input/output")
    kv_fill: Literal["copy", "project"] = Field("copy", description="method §6: keys/values of a skipped layer")


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


class Finetune(Section):
    """The fine-tuned, never-skipping model: the `vanilla` baseline and the frozen teacher."""

    train: Train


class AdapterInit(Section):
    """Adapters alone on instruction data, backbone frozen (method §7)."""

    train: Train


class SkipPretrain(Section):
    """Three forwards of each sample: unskipped teacher and two random students (eqs 7-9)."""

    train: Train
    init: Literal["finetune", "base"] = Field("finetune", description="backbone weights to start from")
    teacher: Literal["self", "frozen"] = Field("frozen", description="P0: the model itself, or the fine-tuned one")
    p: float = Field(0.4, ge=0, lt=1, description="skip probability, or its upper end when `p_draw` is uniform")
    p_draw: Literal["fixed", "uniform"] = "uniform"
    p_warmup: float = Field(0.2, ge=0, le=1, description="share of the steps over which p grows from 0")
    mask_unit: Literal["sample", "token"] = Field("sample", description="one mask per sample, or per deciding token")
    alpha: float = Field(1.0, ge=0, description="weight of L_distill + L_reg (eq 9)")
    ce_unskipped: float = Field(0.0, ge=0, description="weight of cross entropy on the unskipped path; 0 in the paper")


class Sampling(Section):
    """The sampling strategy of §3.2: layers after M similar ones are skipped more often."""

    enabled: bool = True
    tau: float = Field(0.95, ge=-1, le=1, description="a layer is s-p if cos(h_{l+1}, h_l) > tau")
    t: float = Field(0.2, ge=0, le=1, description="added to the skip probability")
    m_start: int = Field(3, ge=0, description="M, annealed to 0 = off")
    count_skipped: bool = False


class RL(Section):
    """REINFORCE on the controllers (eqs 11-13)."""

    train: Train
    rollouts: int = Field(4, ge=1, description="K sampled trajectories per example")
    cost: Literal["layers_run", "signed"] = Field("layers_run", description="l_n / L, or the formula's sum of +-1")
    cost_weight: float = Field(0.3, ge=0, description="lambda")
    baseline: Literal["none", "ema", "self_critical", "rloo"] = "rloo"
    credit: Literal["token", "sample"] = Field("token", description="reward of a token's own target, or its sample's")
    entropy: float = Field(0.003, ge=0, description="entropy bonus: keeps the threshold a dial")
    head_lr: float = Field(gt=0, description="learning rate of the heads; `train.lr` is the adapters'")
    init_skip: float = Field(0.4, gt=0, lt=1, description="skip probability that fresh heads start from")
    sampling: Sampling
    alarm_gap: float = Field(0.25, gt=0, le=1, description="sampled against thresholded skip rate: alarm above")
    eval_every: int = Field(10, ge=1, description="steps between held-out measurements of the two rates")
    eval_examples: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _rloo_needs_two(self) -> RL:
        if self.baseline == "rloo" and self.rollouts < 2:
            raise ValueError("baseline 'rloo' needs rollouts >= 2")
        return self


class Mixer(Section):
    """Joint fine-tuning under the policy's own masks: task loss and RL objective (§3.3 step 4)."""

    train: Train
    schedule: Literal["linear", "mixer"] = "linear"
    w_start: float = Share
    w_end: float = Share
    delta: int = Field(2, ge=1, description="`mixer`: tokens by which the REINFORCE suffix grows per stage")
    stages: int = Field(4, ge=1, description="`mixer`: number of stages")
    rollouts: int = Field(2, ge=1)
    head_lr: float = Field(gt=0)


class Evaluate(Section):
    """What is measured, and over which settings."""

    split: Literal["test", "validation"] = "test"
    thresholds: list[float] = Field(min_length=1)
    batches: list[Literal[1, 8, 16, "per_sample"]] = Field(min_length=1, description="majority over 8 or 16")
    per_sample_batch: int = Field(8, ge=1, description="rows per batch for vanilla, random and per_sample")
    random_control: bool = True
    max_new_tokens: int = Field(48, ge=1, description="longest translation")
    timing_rows: int = Field(
        8, ge=1, description="rows per translation task (at least a batch) timed at the lengths of full depth"
    )
    traces: int = Field(2, ge=0, description="sentences per translation task whose per-token depth is kept")

    @model_validator(mode="after")
    def _thresholds_are_probabilities(self) -> Evaluate:
        if bad := [t for t in self.thresholds if not 0 <= t <= 1]:
            raise ValueError(f"thresholds must lie in [0, 1], got {bad}")
        return self


class Ablations(Section):
    """Variants of the RL stage, trained from the same start with a smaller budget."""

    variants: dict[Name, dict[str, Any]] = Field(description="name -> overrides of the `rl` section")
    steps: int = Field(ge=1)


class Figures(Section):
    """How the report is drawn."""

    dpi: int = Field(160, ge=50)
    headline_threshold: float | None = Field(
        None, description="one of evaluate.thresholds; null: the best setting that skips >= 25 %"
    )


class Params(Section):
    """All of params.yaml."""

    recipe: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    grid: Grid
    backbones: dict[Name, Backbone]
    model: Model
    prepare: Prepare
    finetune: Finetune
    adapter_init: AdapterInit
    skip_pretrain: SkipPretrain
    rl: RL
    mixer: Mixer
    evaluate: Evaluate
    ablations: Ablations
    figures: Figures

    @model_validator(mode="after")
    def _names_exist(self) -> Params:
        if missing := [name for name in self.grid.backbones if name not in self.backbones]:
            raise ValueError(f"grid.backbones names {missing}, which `backbones` does not define")
        chosen = self.figures.headline_threshold
        if chosen is not None and chosen not in self.evaluate.thresholds:
            raise ValueError(f"figures.headline_threshold {chosen} is none of evaluate.thresholds")
        return self

    @model_validator(mode="after")
    def _variants_are_valid(self) -> Params:
        for name, overrides in self.ablations.variants.items():
            try:
                merged(self.rl, overrides)
            except ValidationError as error:
                raise ValueError(offences(error, RL.model_fields, f"ablations.variants.{name}.")) from error
        return self


def merged(config: RL, overrides: dict[str, Any]) -> RL:
    """A section with nested overrides, validated again."""
    data = config.model_dump()
    for key, value in overrides.items():
        data[key] = data[key] | value if isinstance(value, dict) and isinstance(data.get(key), dict) else value
    return RL.model_validate(data)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML 1.2 mapping (so that ``1e-4`` is a number, as DVC reads it).

    Raises:
        DlskipError: The file is missing, is not YAML, or is not a mapping.
    """
    if not path.is_file():
        raise DlskipError("no such file", where=str(path), mend="run from the repository's root")
    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise DlskipError(f"not valid YAML: {error}", where=str(path)) from error
    if not isinstance(data, dict):
        raise DlskipError("must be a mapping of sections", where=str(path))
    return data


def validate(data: dict[str, Any], where: str = "params.yaml") -> Params:
    """Checks a mapping against the schema; a ``DlskipError`` names every offending key and what is wrong with it."""
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        known = {name for section in Section.__subclasses__() for name in section.model_fields}
        mend = "dlskip/config.py lists every key with its type and range"
        raise DlskipError(offences(error, known), where=where, mend=mend) from error


def load(path: Path = PARAMS, *, backbone: str | None = None) -> Params:
    """Reads and validates ``params.yaml``; ``backbone`` must be one that it defines."""
    params = validate(read_yaml(path), str(path))
    if backbone is not None and backbone not in params.backbones:
        raise DlskipError(
            f"no backbone {backbone!r}", where=f"{path}: backbones", mend=f"one of {', '.join(params.backbones)}"
        )
    return params


if __name__ == "__main__":  # checks params.yaml before DVC reads it
    stage(load)
