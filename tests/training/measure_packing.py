"""Tokens per second of each training step, packed and not: the same batches, in turn, in one process.

    python -m tests.training.measure_packing smollm2 --packing 128 256 --batches 12

Run where the pipeline has made ``data/prepared`` and ``models`` (stages backbone and prepare). A step is forward and
backward on one thread, and a second is one of processor time, so that other work on the machine counts less. Beside the
tokens per second stand their ratio to rows of one example, and the tokens that the layers compute for each token of the
batch: each copy of an example, and padding of rows and of ragged selections.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from dlskip.config import Params, load_params
from dlskip.data.batches import Batches, Encoded, collate, encode
from dlskip.data.io import DATA, read_tasks
from dlskip.models import artifact, tuning
from dlskip.models.backbone import load_tokenizer
from dlskip.models.tiny import VOCAB, tiny
from dlskip.skip import attach, skipper_of
from dlskip.steps.mixer import Mix
from dlskip.steps.pretrain import Pretrain
from dlskip.steps.reinforce import Reinforce
from dlskip.steps.supervised import Supervised
from dlskip.training.loop import Step, _attention

Make = Callable[[nn.Module], Step]


def build(name: str, params: Params, share: float) -> nn.Module:
    """A model with LoRA, adapters and fresh controllers that skip this share."""
    torch.manual_seed(0)
    if name == "tiny":
        model = tuning.make_trainable(tiny("llama"), params.model.tune)
        attach(model, bottleneck=8)
        model.requires_grad_(False)
    else:
        model, _ = artifact.build_model(params, name, weights=None)
    skipper_of(model).init_heads(share)
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a backbone of params.yaml, or tiny")
    parser.add_argument("--packing", type=int, nargs="+", default=[256])
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--batch", type=int, help="examples per step; default: as in params.yaml")
    parser.add_argument("--stages", nargs="+")
    args = parser.parse_args()
    params = load_params()
    torch.set_num_threads(1)
    tasks = [*params.prepare.nlu, *params.prepare.mt]
    named = params.grid.backbones[0]
    tokenizer = load_tokenizer(named, params.backbones[named])
    examples = encode(read_tasks(DATA, tasks, "train"), tokenizer, params.finetune.train.max_length)
    if args.model == "tiny":
        examples = [Encoded([i % VOCAB for i in e.prompt], [i % VOCAB for i in e.target], e.task) for e in examples]
    held = collate(examples[:2], 2)
    pretrain = params.skip_pretrain.model_copy(update={"teacher": "self", "p_warmup": 0.0})
    steps: dict[str, Make] = {
        "finetune": lambda m: Supervised(m, tuning.backbone_parameters(m)),
        "skip_pretrain, per token": lambda m: Pretrain(m, pretrain),
        "skip_pretrain, per sample": lambda m: Pretrain(m, pretrain.model_copy(update={"mask_unit": "sample"})),
        "rl": lambda m: Reinforce(m, params.rl, held, 0),
        "mixer": lambda m: Mix(m, params.mixer, params.rl, held),
    }
    lengths = torch.tensor([len(e.prompt) + len(e.target) - 1 for e in examples]).float()
    print(f"{args.model}: {len(examples)} examples of {lengths.mean():.0f} tokens, {int(lengths.max())} at most")
    kinds = [None, *args.packing]
    print("| stage |", " | ".join(f"packing {kind}" for kind in kinds), "| tokens/s")
    for stage, make in steps.items():
        if args.stages and stage not in args.stages:
            continue
        step = make(build(args.model, params, (params.mixer.share if stage == "mixer" else params.rl.share) or 0.2))
        step.train()
        size = args.batch or params.finetune.train.batch
        streams = [Batches(examples, 2, size, 0, packing=kind) for kind in kinds]
        seconds, computed, tokens = [0.0] * len(kinds), [0.0] * len(kinds), 0
        skipper = skipper_of(step.model)
        for i in range(-1, args.batches):  # the first warms up
            for k in range(len(kinds)):
                batch = streams[k].at(max(i, 0))
                torch.manual_seed(i + 1)
                skipper.reset_counter()
                began = time.process_time()
                with _attention(torch.device("cpu")):
                    step(batch, 0, 0.5)[0].backward()
                seconds[k] += (time.process_time() - began) * (i >= 0)
                step.zero_grad(set_to_none=True)
                computed[k] += sum(skipper.counter.ran) / skipper.num_layers * (i >= 0)
            tokens += int(batch.attention_mask.sum()) * (i >= 0)
        cells = [
            f"{tokens / s:.0f} ({seconds[0] / s:.2f}), {n / tokens:.2f}" for s, n in zip(seconds, computed, strict=True)
        ]
        print(f"| {stage} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
