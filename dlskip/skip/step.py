"""The order of a decision, written once: what every way of running a layer calls, layer by layer.

``h_{l+1} = h_l + A_l(h_l) + m_l (Block_l(h_l) - h_l)`` (eqs 5-6; docs/method.md §1-2), in this order:

1. the adapter of layer l reads h_l;
2. the controller of layer l, its adapter and head, decides who runs layer l+1;
3. block l runs on the tokens that were decided to run it, the others keep h_l;
4. the adapter's output is added.

Step 2 needs nothing of step 3, so that the decision is on its way to the host while the block runs. It comes after
step 4 instead if the controllers read a layer's output, if the policy compares a layer's output with its input, or
if what runs the layers collects decisions late (``LayerRunner.late``).
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

from dlskip.skip.passes import Pass, State

A = TypeVar("A")
R = TypeVar("R")


class LayerRunner(Protocol[A, R]):
    """How the layers of one pass are computed. ``A``: what an adapter made; ``R``: what a controller said."""

    late: bool  # whether ``decide`` would wait for the device, and is called once the layer was sent there

    def adapt(self, index: int, h: Tensor) -> A:
        """Runs the adapter of layer ``index`` on its input."""

    def read(self, index: int, h: Tensor, adapted: A | None) -> R:
        """Asks the controller of layer ``index``; ``adapted``: its adapter's output on ``h``, if that is known."""

    def decide(self, layer: int, said: R | None) -> None:
        """Lets the policy decide who runs ``layer``; ``said`` is None if it does not listen to controllers."""

    def run(self, index: int, h: Tensor, adapted: A) -> Tensor:
        """Runs block ``index`` on the tokens that run it, and counts them; the others keep their state."""

    def add(self, h: Tensor, adapted: A) -> Tensor:
        """Adds the adapter's output to what ``run`` returned."""


def step(runner: LayerRunner[A, R], state: State, current: Pass, index: int, h: Tensor) -> Tensor:
    """Layer ``index`` of a pass, and the decision about the next one.

    Args:
        runner: How the layer is computed.
        state: Of the model.
        current: The pass.
        index: l, from 0.
        h: What the runner takes for hidden states, in the shape that it takes them.

    Returns:
        What comes into layer l+1.
    """
    policy = current.policy
    decides = current.is_free(index + 1)
    reads_input = state.reads == "input"
    at_once = decides and reads_input and not (runner.late or policy.uses_similarity)
    said = None
    adapted = runner.adapt(index, h)
    if decides and reads_input and policy.uses_heads:
        said = runner.read(index, h, adapted)
    if at_once:
        runner.decide(index + 1, said)
    current.counter.decided[index] += current.decided_tokens(index)
    out = runner.add(runner.run(index, h, adapted), adapted)
    if policy.uses_similarity:
        policy.observe(index, current.at_deciders(h), current.at_deciders(out), current.runs[index])
    if decides and not at_once:
        if policy.uses_heads and not reads_input:
            said = runner.read(index, out, None)
        runner.decide(index + 1, said)
    return out
