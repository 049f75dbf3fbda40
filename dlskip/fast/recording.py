"""What recorded decoding asks of a GPU: work recorded once and sent again, and logits that reach the host early."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

Work = Callable[[], None]


class Recorder:
    """Turns work into one call that sends all of it to the device again.

    Args:
        device: CUDA; on any other the work is done anew at each call, which is slow and the same.
    """

    def __init__(self, device: torch.device) -> None:
        self.records = device.type == "cuda"
        if self.records:
            self.stream = torch.cuda.Stream(device)
            # One at a time, in whatever order: none leaves anything there that another reads.
            self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """The recording, of which nothing has been done yet."""
        if not self.records:
            return work
        graph = torch.cuda.CUDAGraph()
        with self._aside():
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        return graph.replay

    def first(self, work: Work) -> None:
        """Does work of a kind that was never done here: libraries set themselves up, which cannot be recorded."""
        with self._aside():
            work()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Another stream, as the default one cannot record; it and the current one await each other."""
        if not self.records:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)


class Logits:
    """What the heads read, (L, B, R) float32, and its copies on the host.

    Args:
        layers, batch, rows: L, B, R.
        device: Where the heads are.
    """

    def __init__(self, layers: int, batch: int, rows: int, device: torch.device) -> None:
        self.written = list(torch.zeros(layers, batch, rows, device=device))
        self._host: list[Tensor] | None = None
        self._events: list[torch.cuda.Event] = []
        if device.type == "cuda":
            self._host = list(torch.zeros(layers, batch, rows).pin_memory())
            self._events = [torch.cuda.Event() for _ in range(layers)]
        self._read = [x.numpy() for x in (self._host or self.written)]

    def copy(self, index: int) -> None:
        """Copies to the host: work for the device."""
        if self._host is not None:
            self._host[index].copy_(self.written[index], non_blocking=True)

    def mark(self, index: int) -> None:
        """Notes that ``copy`` was sent to the device just now."""
        if self._events:
            self._events[index].record()

    def arrived(self, index: int) -> np.ndarray:
        """(B, R) float32; waits for what was sent up to ``mark``, not for what was sent after it."""
        if self._events:
            self._events[index].synchronize()
        return self._read[index]
