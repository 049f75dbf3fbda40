"""One training stage of one backbone and seed: examples in, a ``Step`` trained, an artifact with its provenance out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from dlskip import provenance
from dlskip.config import Params, Train
from dlskip.data.batches import Batch, Batches, Encoded, collate, encode
from dlskip.data.io import DATA, prepared_sha256, read_tasks
from dlskip.models import artifact
from dlskip.skip.packing import check_packing
from dlskip.training import checkpoint
from dlskip.training.loop import Step, TrainingRun, finish, total_steps, train


def tokens_of(train: Train, examples: Sequence[Encoded], pad: int, seed: int) -> int:
    """Input tokens of a run's batches, over all processes, padding left out."""
    return Batches(examples, pad, train.batch, seed).tokens(total_steps(train, len(examples)))


class TrainingStage:
    """One training run of one backbone and seed.

    Args:
        params: All parameters.
        stage: Name, also of the default output directory.
        backbone: Backbone's name.
        seed: Seed.
        train: The run's length and learning rate.
        config: The sections that determine the result, for the provenance and the resume key.
        out: Output directory; default ``artifacts/<stage>/<backbone>-<seed>``.
    """

    def __init__(
        self, params: Params, stage: str, backbone: str, seed: int, train: Train, config: dict[str, BaseModel],
        out: Path | None = None,
    ) -> None:  # fmt: skip
        self.params = params
        self.stage = stage
        self.backbone = backbone
        self.seed = seed
        self.train = train
        self.config = {"model": params.model, **config}
        self.out = out or artifact.directory(stage, backbone, seed)
        self.tasks = [*params.prepare.nlu, *params.prepare.mt]
        self.started = time.time()
        self.data = prepared_sha256(DATA)
        torch.manual_seed(seed)  # the model is built next: fresh LoRA, adapters and heads are drawn at random

    def examples(self, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], split: str) -> list[Encoded]:
        """Tokenised rows of several tasks."""
        return encode(read_tasks(DATA, list(tasks), split), tokenizer, self.train.max_length)

    def held_out(self, tokenizer: PreTrainedTokenizerBase, count: int) -> Batch:
        """A fixed held-out batch: the same number of validation rows of each task."""
        each = max(1, count // len(self.tasks))
        rows = [e for task in self.tasks for e in self.examples(tokenizer, [task], "validation")[:each]]
        return collate(rows, tokenizer.pad_token_id).to(artifact.device_of(self.params))

    def run(self, step: Step, model: nn.Module, examples: list[Encoded], pad: int, held_out_every: int = 0) -> None:
        """Trains, writes the artifact and its provenance, and removes the checkpoint.

        Raises:
            DlskipError: As of ``train``, or examples are to be packed which the model cannot tell apart.
        """
        if self.train.packing is not None:
            check_packing(model)
        device = artifact.device_of(self.params)
        identity: dict[str, Any] = {
            "config": {k: v.model_dump() for k, v in self.config.items()}, "data": self.data, "seed": self.seed,
            "backbone": self.params.backbones[self.backbone].model_dump(), "out": str(self.out), "device": device,
            "start": checkpoint.fingerprint(step),
        }  # fmt: skip
        resume = checkpoint.CHECKPOINTS / checkpoint.key(self.stage, **identity)
        run = TrainingRun(self.stage, self.train, examples, pad, self.seed, device, resume, held_out_every)
        if not train(step, run, self.out):
            return
        artifact.save(model, self.out)
        steps = total_steps(self.train, len(examples))
        provenance.write(
            self.out, stage=self.stage, config=self.config, seed=self.seed, data_sha256=self.data, device=device,
            started=self.started,
            training={
                "steps": steps, "rows": steps * self.train.batch, "lr": self.train.lr,
                "tokens": tokens_of(self.train, examples, pad, self.seed),
            },
        )  # fmt: skip
        finish(run)
