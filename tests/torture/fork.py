"""Runs stages and commands in forked children, which are killed, refused or stopped at a file event or a time."""

from __future__ import annotations

import errno
import os
import resource
import runpy
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class Fault:
    """What befalls a child: at the ``event``-th change of a file in its folder, or after some seconds.

    ``how``: a signal; a negative errno that the event is refused with; or ``torn``: half of a file, then SIGKILL.
    ``limit`` is the most bytes of a file.
    """

    event: int = 0
    how: int | str = signal.SIGKILL
    after: float = 0.0
    limit: int = 0


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: the signal), what it said, and how many file events it had."""

    code: int
    said: str
    events: int

    @property
    def one_message(self) -> bool:
        """Whether it ended with a non-zero code and one message, no traceback."""
        told = [line for line in self.said.splitlines() if line.startswith("error: ") or line == "stopped"]
        return self.code > 0 and len(told) == 1 and "Traceback" not in self.said


def stage(name: str, **options: Any) -> Callable[[], None]:
    """A stage as ``python -m stages.<name>`` runs it."""

    def run() -> None:
        sys.argv = [f"stages/{name}.py", *(x for key, value in options.items() for x in (f"--{key}", str(value)))]
        runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)

    return run


def start(action: Callable[[], None], folder: Path, fault: Fault | None = None) -> Callable[[], Ended]:
    """Starts a child in a folder; returns what waits for its end."""
    said, log = os.pipe()  # no file: a limit on the size of files would be one on what it says
    counted, events = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(said)
            os.close(counted)
            _become(action, folder, fault or Fault(), log, events)
        finally:
            os._exit(99)  # whatever happens, it does not go on as the tests
    os.close(log)
    os.close(events)

    def wait() -> Ended:
        with os.fdopen(said, "rb") as text, os.fdopen(counted, "rb") as bytes_:
            heard, count = text.read().decode("utf-8", "replace"), len(bytes_.read())
        _, status = os.waitpid(child, 0)
        return Ended(os.waitstatus_to_exitcode(status), heard, count)

    return wait


def run(action: Callable[[], None], folder: Path, fault: Fault | None = None) -> Ended:
    """Runs a child to its end."""
    return start(action, folder, fault)()


def _become(action: Callable[[], None], folder: Path, fault: Fault, log: int, pipe: int) -> None:
    code, hard = 1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    torch.set_num_threads(1)  # threads that the tests have started are not in a fork, which would wait for them
    os.chdir(folder)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _listen(folder.resolve(), fault, pipe)
        if fault.limit:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.limit, hard))
        if fault.after:
            threading.Thread(target=_later, args=(fault,), daemon=True).start()
        action()
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _later(fault: Fault) -> None:
    time.sleep(fault.after)
    os.kill(os.getpid(), int(fault.how))


def _listen(folder: Path, fault: Fault, pipe: int) -> None:
    """Counts changes of files in the folder, one byte each into a pipe, and lets the fault happen."""
    count, busy = 0, False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count, busy
        if busy or event not in EVENTS or not isinstance(args[0], str | bytes | os.PathLike):
            return
        if event == "open" and not ((args[2] or 0) & WRITES):
            return
        path = Path(os.path.abspath(os.fsdecode(args[0])))  # noqa: PTH100 - resolve() would open links
        if not path.is_relative_to(folder):
            return
        count += 1
        os.write(pipe, b".")
        if count != fault.event:
            return
        busy = True
        if fault.how == "torn":
            _tear()
        elif isinstance(fault.how, int) and fault.how < 0:
            raise OSError(-fault.how, os.strerror(-fault.how), str(path))
        else:
            os.kill(os.getpid(), int(fault.how))
        busy = False

    sys.addaudithook(hook)


def _tear() -> None:
    """Has the next file that is written from Python, or as safetensors, end after half of its bytes."""
    import safetensors.torch

    def half(path: Any, content: bytes) -> None:
        with open(path, "wb") as file:  # noqa: PTH123 - Path's own is torn
            file.write(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    def text(path: Path, data: str, *_: Any, **__: Any) -> None:
        half(path, data.encode())

    def tensors(given: Any, path: Any, metadata: Any = None) -> None:
        half(path, safetensors.torch.save(given, metadata))

    Path.write_text, Path.write_bytes = text, half  # type: ignore[assignment,method-assign]
    for module in list(sys.modules.values()):
        if getattr(module, "save_file", None) is safetensors.torch.save_file:
            module.save_file = tensors  # type: ignore[attr-defined]
    shutil.copyfileobj = lambda a, b, *_: half(b.name, a.read())  # type: ignore[assignment]
