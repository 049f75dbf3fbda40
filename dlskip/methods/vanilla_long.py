"""Vanilla, fine-tuned on until it has seen as many tokens as ours has in all of its stages together.

Beside it a score of ours cannot be put down to more training.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache

from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase

from dlskip.config import Params, Train
from dlskip.data.batches import Batches, Encoded, encode
from dlskip.data.io import DATA, read_tasks
from dlskip.data.tasks import INSTRUCTIONS
from dlskip.errors import DlskipError
from dlskip.methods.base import Method
from dlskip.methods.settings import ALL, FULL, PlannedSetting
from dlskip.models import artifact, tuning
from dlskip.models.backbone import load_tokenizer
from dlskip.steps.supervised import Supervised
from dlskip.training.stage import TrainingStage, tokens_of

TITLE = "Vanilla, trained as long as ours"


class Budget(BaseModel):
    """Input tokens of training, padding left out; each counts once, however often a step passes it.

    Args:
        vanilla: Of the fine-tuning, which is gone on with.
        ours: Of all stages of ours, with that fine-tuning where ours starts from it.
    """

    vanilla: int
    ours: int


def budget(params: Params, tokenizer: PreTrainedTokenizerBase, seed: int) -> Budget:
    """What vanilla and ours are trained on."""

    @cache
    def rows(tasks: tuple[str, ...], max_length: int) -> list[Encoded]:
        return encode(read_tasks(DATA, list(tasks), "train"), tokenizer, max_length)

    def count(train: Train, *tasks: str) -> int:
        return tokens_of(train, rows(tasks, train.max_length), tokenizer.pad_token_id, seed)

    tasks = [*params.prepare.nlu, *params.prepare.mt]
    vanilla = count(params.finetune.train, *tasks)
    stages = (params.skip_pretrain.train, params.rl.train, params.mixer.train)
    own = count(params.adapter_init.train, INSTRUCTIONS) + sum(count(train, *tasks) for train in stages)
    return Budget(vanilla=vanilla, ours=own + (vanilla if params.skip_pretrain.init == "finetune" else 0))


def steps_for(batches: Batches, tokens: int) -> int:
    """The fewest steps whose batches have that many input tokens: within one batch of them."""
    most = 1
    while batches.tokens(most) < tokens:
        most *= 2
    return bisect_left(range(most + 1), tokens, key=batches.tokens)


class VanillaLong(Method):
    """One model, in which every layer runs: vanilla, trained on with its own batches and another learning rate."""

    name = "vanilla_long"

    def make(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        return [PlannedSetting(setting=FULL, weights=str(artifact.directory(self.name, backbone, seed) / ALL))]

    def train_once(self, params: Params, backbone: str, seed: int) -> None:
        """Trains the model.

        Raises:
            DlskipError: Ours is trained on no more tokens than vanilla.
        """
        tokenizer, short = load_tokenizer(backbone, params.backbones[backbone]), params.finetune.train
        tasks, tokens = [*params.prepare.nlu, *params.prepare.mt], budget(params, tokenizer, seed)
        if tokens.ours <= tokens.vanilla:
            raise DlskipError(
                f"ours sees {tokens.ours} tokens in training, vanilla {tokens.vanilla}: there is nothing to go on with",
                where=self.name, mend="take it out of grid.baselines and grid.trained_once",
            )  # fmt: skip
        examples = encode(read_tasks(DATA, tasks, "train"), tokenizer, short.max_length)
        steps = steps_for(
            Batches(examples, tokenizer.pad_token_id, short.batch, seed), tokens.ours - tokens.vanilla
        )  # fmt: skip
        train = short.model_copy(update={"steps": steps, "epochs": None, "lr": params.baselines.vanilla_long.lr})
        out = artifact.directory(self.name, backbone, seed) / ALL
        stage = TrainingStage(
            params, "train_once", backbone, seed, train, {"train": train, "tokens": tokens}, out
        )  # fmt: skip
        start = artifact.directory("vanilla", backbone, seed)
        model, _ = artifact.build_model(params, backbone, weights=start, skipping=False)
        step = Supervised(model, tuning.backbone_parameters(model))
        stage.run(step, model, examples, tokenizer.pad_token_id)


METHOD = VanillaLong()
