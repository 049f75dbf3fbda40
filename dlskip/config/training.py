"""The sections of params.yaml that say how each stage trains."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from dlskip.config.sections import Name, Section, Train

Share = Field(ge=0.0, le=1.0)
Models = Literal["none", "one", "per_share"]  # that a baseline trains: for all of its settings, or for each share


class Finetune(Section):
    """The fine-tuned, never-skipping model: the `vanilla` baseline and the frozen teacher."""

    train: Train


class AdapterInit(Section):
    """Adapters alone on instruction data, backbone frozen (docs/method.md §7)."""

    train: Train


class SkipPretrain(Section):
    """Three forwards of each sample: unskipped teacher and two random students (eqs 7-9)."""

    train: Train
    init: Literal["finetune", "base"] = Field(description="backbone weights to start from")
    teacher: Literal["self", "frozen"] = Field(description="P0: the model itself, or the fine-tuned one")
    p: float = Field(ge=0, lt=1, description="skip probability, or its upper end when `p_draw` is uniform")
    p_draw: Literal["fixed", "uniform"]
    p_warmup: float = Field(ge=0, le=1, description="share of the steps over which p grows from 0")
    mask_unit: Literal["sample", "token"] = Field(description="one mask per sample, or per deciding token")
    alpha: float = Field(ge=0, le=1000, description="weight of L_distill + L_reg in L_pretrain (eq 9)")
    ce_unskipped: float = Field(
        ge=0, le=1000, description="weight of cross entropy on the unskipped path; 0 in the paper"
    )


class Sampling(Section):
    """The sampling strategy: layers after M similar ones are skipped more often (docs/method.md §4)."""

    enabled: bool
    tau: float = Field(ge=-1, le=1, description="a layer is s-p if cos(h_{l+1}, h_l) > tau")
    t: float = Field(ge=0, le=1, description="added to the skip probability")
    m_start: int = Field(ge=0, le=1000, description="M, annealed to 0 = off")
    count_skipped: bool


class RL(Section):
    """The controllers, by rewards and REINFORCE (eqs 11-13)."""

    train: Train
    rollouts: int = Field(ge=1, le=256, description="K sampled trajectories per example")
    cost: Literal["layers_run", "signed"] = Field(description="l_n / L, or the formula's sum of +-1")
    cost_gradient: Literal["exact", "sampled"] = Field(description="of the expected cost itself, or through the reward")
    price: float = Field(ge=0, le=1000, description="lambda; where `share` is given, at the first step")
    share: float | None = Field(ge=0, lt=1, description="skipped share that lambda is adapted to; null: lambda stays")
    baseline: Literal["none", "ema", "self_critical", "rloo"]
    credit: Literal["token", "sample"] = Field(description="reward of a token's own target, or its sample's")
    entropy: float = Field(ge=0, le=100, description="entropy bonus: keeps the threshold a dial")
    head_lr: float = Field(gt=0, le=10, description="learning rate of the heads; `train.lr` is the adapters'")
    init_skip: float = Field(gt=0, lt=1, description="skip probability that fresh heads start from")
    sampling: Sampling
    alarm_gap: float = Field(gt=0, le=1, description="sampled against thresholded skip rate: alarm above")
    eval_every: int = Field(ge=1, le=10**7, description="steps between held-out measurements of the two rates")
    eval_examples: int = Field(ge=1, le=10**5)

    @model_validator(mode="after")
    def _a_price_that_grows_is_positive(self) -> RL:
        if self.share is not None and self.price == 0:
            raise ValueError("price must be greater than 0 where `share` adapts it")
        return self

    @model_validator(mode="after")
    def _rloo_needs_two(self) -> RL:
        if self.baseline == "rloo" and self.rollouts < 2:
            raise ValueError("baseline 'rloo' needs rollouts >= 2")
        return self

    @model_validator(mode="after")
    def _the_exact_cost_is_each_tokens(self) -> RL:
        if self.cost_gradient == "exact" and self.credit == "sample":
            raise ValueError("cost_gradient 'exact' needs credit 'token'; with credit 'sample' use 'sampled'")
        return self


class Mixer(Section):
    """Joint fine-tuning under the policy's own masks: task loss and RL objective (docs/method.md §5)."""

    train: Train
    share: float | None = Field(ge=0, lt=1, description="skipped share to reach from `rl.share`; null: lambda stays")
    schedule: Literal["linear", "mixer"]
    w_start: float = Share
    w_end: float = Share
    delta: int = Field(ge=1, le=10**5, description="`mixer`: tokens by which the REINFORCE suffix grows per stage")
    stages: int = Field(ge=1, le=10**4, description="`mixer`: number of stages")
    rollouts: int = Field(ge=1, le=256)
    entropy_end: float = Field(
        ge=-100, le=100, description="what `rl.entropy` goes to, linearly; below 0 it makes the policy decided"
    )
    head_lr: float = Field(gt=0, le=10)
    head_decay: bool = Field(description="whether `head_lr` decays as `train.lr` does")


class Static(Section):
    """A fixed block of layers dropped, and the rest fine-tuned: one model per share (docs/method.md §9)."""

    train: Train
    init: Literal["finetune", "base"] = Field(description="backbone weights to start from")
    block: Literal["top", "middle"] = Field(description="the layers just below the last, or centred")


class PretrainStatic(Section):
    """The layers of `static` dropped, and the rest trained with the loss of skip pretraining (docs/method.md §9)."""

    train: Train
    init: Literal["finetune", "base"] = Field(description="backbone weights to start from")
    models: Literal["per_share", "one"] = Field(description="a model for each share, or one that sees them all")
    teacher: Literal["self", "frozen"] = Field(description="P0: the model itself, or the fine-tuned one")
    alpha: float = Field(ge=0, le=1000, description="weight of L_distill + L_reg in L_pretrain (eq 9)")


class VanillaLong(Section):
    """Fine-tuning that goes on from vanilla, to as many tokens as all stages of ours have (docs/method.md §9)."""

    models: ClassVar[Models] = "one"
    lr: float = Field(gt=0, le=1, description="peak learning rate; all else is as in `finetune.train`")


class SkipDecode(Section):
    """The same layers for every sample, more of them the further decoding is (docs/method.md §9)."""

    horizon: float = Field(
        gt=0, le=1, description="quantile of a task's target lengths at which the maximum share is reached"
    )
    order: Literal["intermediate", "shallow"] = Field(
        description="which layers are skipped first: those in the middle (paper, §4.2), or the lowest (§2.1)"
    )


class ShortGPT(Section):
    """Layers of least influence dropped, without training."""

    examples: int = Field(ge=1, le=10**6, description="validation rows that the influence is measured on")


class Baselines(Section):
    """What the methods that ours is compared with are trained or calibrated with, if there is anything to set."""

    static: Static
    pretrain_static: PretrainStatic
    vanilla_long: VanillaLong
    skip_decode: SkipDecode
    shortgpt: ShortGPT

    def models(self, method: str) -> Models:
        """What a method trains: what its section's ``models`` says, or for each share if the section has ``train``."""
        section = getattr(self, method, None)
        made: Models = getattr(section, "models", "per_share" if hasattr(section, "train") else "none")
        return made


class Variant(Section):
    """One ablation: where it starts, which stages are trained again, and with what changed."""

    start: Literal["vanilla", "adapter_init", "skip_pretrain", "rl"] = Field(
        description="whose weights it starts from; `vanilla` with fresh adapters"
    )
    stages: list[Literal["skip_pretrain", "rl", "mixer"]] = Field(description="what is trained from there, in order")
    set: dict[Literal["model", "skip_pretrain", "rl", "mixer"], dict[str, Any]] = Field(
        {}, description="changes to those sections"
    )
    against: Name = Field("ours", description="the method that it differs from in one part")

    @model_validator(mode="after")
    def _stages_are_in_order(self) -> Variant:
        if self.stages != (ordered := [s for s in ("skip_pretrain", "rl", "mixer") if s in self.stages]):
            raise ValueError(f"stages must be in their order, each once: {ordered}")
        return self


class Ablations(Section):
    """Our method with one part changed or left out, each a method of its own."""

    variants: dict[Name, Variant]
