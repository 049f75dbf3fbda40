"""The sections of params.yaml that say what is run, on what, and how it is measured and drawn."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from dlskip.data import embedded
from dlskip.data.tasks import BUILT_IN, Task
from dlskip.methods.names import TITLES

# Part of paths and of DVC's keys
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
File = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]  # in a folder
Item = TypeVar("Item")


def _each_once(items: list[Item]) -> list[Item]:
    if twice := [item for i, item in enumerate(items) if item in items[:i]]:
        raise ValueError(f"names {twice[0]!r} twice")
    return items


def _no_other_number(found: Any) -> Any:
    """``True`` and 1.0 equal 1, and would pass for it."""
    if isinstance(found, bool | float):
        raise ValueError(f"must be a whole number or a word, got {found}")
    return found


Once = Annotated[list[Item], AfterValidator(_each_once)]  # a list without repetitions
Threshold = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Price = Annotated[float, Field(gt=0, le=1000)]
Prices = Annotated[tuple[Price, Price], Field(strict=False)]  # YAML and JSON have no tuples
Pair = Annotated[tuple[Name, Name], Field(strict=False)]
Rows = Annotated[Literal[1, 8, 16], BeforeValidator(_no_other_number)]
Rule = Annotated[Literal[1, 8, 16, "per_sample"], BeforeValidator(_no_other_number)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # as NumPy's


class Section(BaseModel):
    """A section of params.yaml: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Grid(Section):
    """What is run: every method on every backbone with every seed."""

    backbones: Once[str] = Field(min_length=1)
    seeds: Once[Seed] = Field(min_length=1)
    own: Once[Literal["vanilla", "ours"]] = Field(min_length=1, description="methods with stages of their own")
    baselines: Once[Name] = Field(description="methods to compare with: a file of dlskip/methods each")
    trained: Once[Name] = Field(description="those of the baselines that train a model for each share")
    trained_once: Once[Name] = Field(description="those of the baselines that train one model")
    borrowed: Once[Name] = Field(description="<method>_on_<weights>: methods that train nothing, on ours' weights")
    ablations: Once[Name] = Field(description="names of ablations.variants")
    timed: Once[Name] = Field(description="of all these, those whose speed is measured")

    @property
    def methods(self) -> list[str]:
        """What is evaluated: rows of the tables, in their order."""
        of_file = {*self.own, *self.baselines}
        return [*(name for name in TITLES if name in of_file), *self.borrowed, *self.ablations]


class Backbone(Section):
    """A backbone by name: SmolLM2 or Gemma 3 from a package, a random ``tiny-*``, a local directory or a hub id."""

    source: str = Field(
        min_length=1,
        max_length=4096,
        description="'smollm2', 'gemma3-270m', 'tiny-llama|gpt2|opt|falcon|...', a directory, or a hub id",
    )
    revision: str | None = Field(None, description="hub commit; pinned for reproducibility")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False


class Tune(Section):
    """How the backbone's weights are trained (docs/method.md §3): LoRA, 4-bit NF4 + LoRA, or all of them."""

    mode: Literal["lora", "qlora", "full"]
    r: int = Field(ge=1, le=1024, description="LoRA rank; the paper's 16")
    alpha: float = Field(gt=0, le=1e6)
    dropout: float = Field(ge=0.0, lt=1.0)
    targets: Literal["attention", "all-linear"]


class Model(Section):
    """Adapters and controllers around every layer (docs/method.md §1-2)."""

    tune: Tune
    bottleneck: int = Field(ge=1, le=4096, description="r of the adapter's D->r->D MLP (eq 5)")
    controller_reads: Literal["input", "output"] = Field(
        description="whether a controller (eq 10) reads A_l of the layer's input or of its output"
    )
    kv_fill: Literal["copy", "project"] = Field(description="keys of a skipped layer (docs/method.md §6)")
    prices: Prices | None = Field(
        description="range of prices that RL draws from, on which the controllers are conditioned; null: rl.price"
    )

    @model_validator(mode="after")
    def _prices_are_a_range(self) -> Model:
        if self.prices is not None and self.prices[0] >= self.prices[1]:
            raise ValueError(f"prices must rise, got {list(self.prices)}")
        return self


class OwnTask(Section):
    """A data set of your own: how a row is asked, and how its answer is judged.

    Its rows lie in ``<prepare.path>/<name>/<split>.jsonl``: the fields and ``label`` (a number), or, for translation,
    ``translation`` with a text per language.
    """

    title: str = Field("", description="for people; empty: its name")
    kind: Literal["nlu", "mt"]
    prompt: str = Field(description="template; {field} is replaced by the row's text", min_length=1)
    fields: Once[Name] = Field([], description="nlu: the input columns")
    labels: Once[str] = Field([], description="nlu: answer words, in the order of the label numbers")
    metric: Once[Literal["accuracy", "f1", "mcc"]] = Field([], description="nlu: shown beside macro F1")
    positive: int = Field(1, ge=0, le=1000, description="nlu: the label number that f1 counts")
    languages: Pair | None = Field(None, description="mt: source and target, such as [de, en]")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> OwnTask:
        if self.kind == "mt" and (self.languages is None or self.fields or self.labels or self.metric):
            raise ValueError("a translation has `languages`, and neither fields nor labels nor metric")
        if self.kind == "nlu" and (self.languages or not self.fields or len(self.labels) < 2):
            raise ValueError("an nlu task has `fields` and two `labels` at least, and no languages")
        if self.kind == "nlu" and self.positive >= len(self.labels):
            raise ValueError(f"positive {self.positive} is none of {len(self.labels)} labels")
        asked = self.languages[:1] if self.languages else tuple(self.fields)
        try:
            self.prompt.format(**dict.fromkeys(asked, ""))
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"prompt has {{{str(error).strip(chr(39))}}}, which is none of {', '.join(asked)}"
            ) from error
        if self.prompt != self.prompt.rstrip():
            raise ValueError("prompt must not end in a space: the answer begins with one")
        return self

    def definition(self, name: str) -> Task:
        """The task as the rest of the code knows it."""
        languages = self.languages or ("", "")
        fields = (languages[0],) if self.kind == "mt" else tuple(self.fields)
        prompts = {"paper": self.prompt, "short": self.prompt}
        return Task(
            name, self.title or name, self.kind, fields, prompts, tuple(self.labels),
            tuple(self.metric), self.positive, languages,
        )  # fmt: skip


class Prepare(Section):
    """Which rows are used and how they are written as prompts."""

    source: Literal["embedded", "jsonl", "hub"]
    path: str | None = Field(description="directory of the jsonl source")
    seed: Seed
    nlu: Once[str]
    mt: Once[str]
    constructions: dict[str, Once[str]] | None = Field(
        description="source embedded: by NLU task, the constructions that rows of every split are made of; null, or a "
        "task that is not named: all, and some of them not in training"
    )
    tasks: dict[Name, OwnTask] = Field({}, description="data sets of your own, by name; list them in `nlu` or `mt` too")
    prompts: Literal["paper", "short"]
    train: int = Field(ge=1, le=10**7, description="training rows per task, at most")
    train_mt: int | None = Field(ge=1, le=10**7, description="training rows per translation task; null: as `train`")
    validation: int = Field(ge=1, le=10**7, description="validation rows per task, at most")
    test: int = Field(ge=1, le=10**7, description="test rows per NLU task, at most")
    test_mt: int = Field(ge=1, le=10**7, description="test rows per translation task, at most")
    instructions: int = Field(ge=1, le=10**7, description="instruction rows for the adapters' initialisation")
    max_chars: int = Field(
        ge=16, le=10**6, description="rows whose prompt + target is longer are left out (and counted)"
    )

    @model_validator(mode="after")
    def _there_is_a_task(self) -> Prepare:
        if not self.nlu and not self.mt:
            raise ValueError("nlu and mt are both empty: name a task")
        return self

    @model_validator(mode="after")
    def _jsonl_needs_path(self) -> Prepare:
        if self.source == "jsonl" and not self.path:
            raise ValueError("source 'jsonl' needs `path`, a directory with one folder per data set")
        return self

    @model_validator(mode="after")
    def _constructions_exist(self) -> Prepare:
        for task, chosen in (self.constructions or {}).items():
            if task not in embedded.NLU:
                raise ValueError(f"constructions names {task!r}, which is none of {', '.join(embedded.NLU)}")
            known = embedded.NLU[task].names()
            if not chosen or (unknown := [name for name in chosen if name not in known]):
                wrong = repr(unknown[0]) if chosen else "nothing"
                raise ValueError(f"constructions.{task} names {wrong}, which is none of {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _tasks_exist(self) -> Prepare:
        own = {name: task.definition(name) for name, task in self.tasks.items()}
        if taken := [name for name in own if name in BUILT_IN]:
            raise ValueError(f"tasks defines {taken[0]!r}, which dlskip/data/tasks.py does: take another name")
        if own and self.source != "jsonl":
            raise ValueError(f"tasks defines {next(iter(own))!r}, whose rows must lie in `path`: set source to jsonl")
        known = BUILT_IN | own
        suite = self.source == "embedded"
        for kind, names in (("nlu", self.nlu), ("mt", self.mt)):
            for name in names:
                if name not in known or known[name].kind != kind:
                    here = [
                        t.name for t in known.values() if t.kind == kind and t.embedded == (self.source == "embedded")
                    ]
                    raise ValueError(f"{kind} names {name!r}, which is none of {', '.join(here)}")
                if known[name].embedded != suite:
                    raise ValueError(
                        f"source {self.source!r} has no task {name!r}: the embedded tasks go with source embedded, all "
                        "others with jsonl or hub"
                    )
        return self


class Train(Section):
    """One training run: how long, how large, how fast."""

    steps: int | None = Field(None, ge=1, le=10**7, description="optimizer steps; give this or `epochs`")
    epochs: float | None = Field(None, gt=0, le=1000)
    batch: int = Field(ge=1, le=4096, description="examples per optimizer step, over all processes")
    lr: float = Field(gt=0, le=1)
    loraplus_lr_ratio: float = Field(1.0, ge=1, le=1000, description="LoRA's B learns at `lr` times this (LoRA+)")
    weight_decay: float = Field(0.0, ge=0, le=10)
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps")
    decay: Literal["linear", "cosine", "constant"] = "linear"
    clip: float = Field(1.0, gt=0, le=1e6, description="gradient norm")
    max_length: int = Field(ge=8, le=2**17, description="tokens per example; longer prompts are cut from the left")
    packing: int | None = Field(
        None,
        ge=8,
        le=2**17,
        description="tokens of a row, at most, that several examples share; null: one example per row",
    )
    checkpoint_every: int = Field(25, ge=1, le=10**7, description="steps between resumable checkpoints")
    log_every: int = Field(5, ge=1, le=10**7)

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Train:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        return self

    @model_validator(mode="after")
    def _rows_hold_every_example(self) -> Train:
        if self.packing is not None and self.packing < self.max_length:
            raise ValueError(f"packing must be max_length ({self.max_length}) at least, got {self.packing}")
        return self


class Speed(Section):
    """How prefill (of understanding prompts) and decoding (of translations) are timed; a batch mixes the tasks."""

    batches: Once[Rows] = Field(min_length=1, description="rows per batch")
    rows: int = Field(ge=1, le=4096, description="prompts timed, where each has a depth of its own; at least one batch")
    tokens: int = Field(ge=1, le=4096, description="tokens decoded after the prompt's own")
    repeats: int = Field(ge=1, le=1000, description="runs of each, alternating with full depth; the median counts")


class Evaluate(Section):
    """What is measured, and over which settings."""

    split: Literal["test", "validation"]
    thresholds: Once[Threshold] = Field(min_length=1, description="settings of ours and of its ablations")
    prices: Once[Price] = Field(description="settings of variants with `model.prices`")
    shares: Once[Share] = Field(min_length=1, description="settings of the baselines: share of all layers to skip")
    batches: Once[Rule] = Field(min_length=1, description="majority over 8 or 16")
    per_sample_batch: int = Field(ge=1, le=4096, description="rows per batch for vanilla, random and per_sample")
    random_control: bool
    max_new_tokens: int = Field(ge=1, le=2**17, description="longest translation")
    beams: int = Field(ge=1, le=4096, description="of translations; 1: greedy. Understanding tasks choose among labels")
    traces: int = Field(ge=0, le=10**4, description="sentences per translation task whose per-token depth is kept")

    @model_validator(mode="after")
    def _beams_are_rows_of_their_own(self) -> Evaluate:
        if self.beams > 1 and (together := [batch for batch in self.batches if batch in (8, 16)]):
            raise ValueError(
                f"beams: {self.beams} goes with batches 1 and per_sample alone: a prompt is searched by itself, so a "
                f"batch of {together[0]} cannot decide as one"
            )
        return self


class Figures(Section):
    """How the report is drawn."""

    headline_threshold: float | None = Field(
        ge=0, le=1, description="one of evaluate.thresholds; null: the best setting that skips >= 25 %"
    )
