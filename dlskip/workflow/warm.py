"""Stages without the seconds that importing torch takes: a process that has imported it forks for each of them.

Run as a program, this file is that process: it takes a socket's path and serves until its input ends. ``python`` in
the folder that ``warm`` makes sends ``python -m stages.<name>`` to it, and everything else to Python itself; so does it
with stages as long as nobody serves. A stage has the arguments, folder, environment, streams and cores of its call. Its
own code is imported when it starts, from that folder. Signals to the call reach it, and it ends with its call.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch", "transformers.modeling_utils", "transformers.generation", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama",
    "peft", "accelerate", "dvclive", "pandas", "scipy.stats", "sklearn.metrics", "sacrebleu.metrics",
)  # fmt: skip
LAUNCHER = """\
#!/bin/sh
case "$1 $2" in
  "-m stages."*) [ -S "{address}" ] && exec "{python}" -S -E "{here}" "{address}" "$@" ;;
esac
exec "{python}" "$@"
"""


@contextmanager
def warm() -> Iterator[Path]:
    """Yields a folder whose ``python`` starts stages quickly, once the libraries are imported; to be first in PATH."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))  # short: a socket's path has 100 characters at most
    address, launcher = folder / "socket", folder / "python"
    launcher.write_text(LAUNCHER.format(python=sys.executable, here=__file__, address=address))
    launcher.chmod(0o755)
    # It ends with us, however we end: its input does. Ctrl-C is not meant for it, and what libraries say is for nobody.
    server = subprocess.Popen(
        [sys.executable, __file__, str(address)], stdin=subprocess.PIPE, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield folder
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


def is_warm() -> bool:
    """Whether the first ``python`` in PATH is already such a one, and somebody serves."""
    return (Path(shutil.which("python") or "python").parent / "socket").exists()


def _serve(address: str) -> None:
    """Forks for each call; returns in the child, which is the stage. The server itself ends when its input does."""
    for name in LIBRARIES:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen()
    Path(f"{address}.new").rename(address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os._exit(0)
        call, _ = listener.accept()
        if os.fork() == 0:
            break
        call.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    listener.close()
    request, streams, *_ = socket.recv_fds(call, 1 << 20, 3)
    while not request.endswith(b"\n"):
        request += call.recv(1 << 20)
    if stage := os.fork():
        _stand_by(stage, call)
    call.close()
    for own, given in enumerate(streams):
        os.dup2(given, own)
        os.close(given)
    _become(**json.loads(request))


def _stand_by(stage: int, call: socket.socket) -> None:
    """Hands signals on to a stage, and its exit code back. Never returns."""
    while not (ended := os.waitpid(stage, os.WNOHANG))[0]:
        if select.select([call], [], [], 0.02)[0]:
            signals = call.recv(16) or bytes([signal.SIGKILL])  # the call is gone: killed
            for number in signals:
                os.kill(stage, number)
            if signal.SIGKILL in signals:
                os._exit(0)
    code = os.waitstatus_to_exitcode(ended[1])
    with suppress(OSError):  # nobody waits any more
        call.send(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _become(arguments: list[str], folder: str, env: dict[str, str], cores: list[int]) -> None:
    """Runs ``python -m`` with the given arguments in this process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    if cores:
        os.sched_setaffinity(0, cores)
    sys.path[0], sys.argv, sys.orig_argv = folder, arguments, ["python", "-m", *arguments]
    threads = int(env.get("OMP_NUM_THREADS") or len(cores) or os.cpu_count() or 1)
    importlib.import_module("torch").set_num_threads(threads)  # the environment was read at its import
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _ask(address: str, arguments: list[str]) -> int:
    """Has a stage run, and returns its exit code."""
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    request: dict[str, Any] = {
        "arguments": arguments, "folder": str(Path.cwd()), "env": dict(os.environ), "cores": cores,
    }  # fmt: skip
    with socket.socket(socket.AF_UNIX) as call:
        call.connect(address)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: call.send(bytes([number])) and None)
        socket.send_fds(call, [b" "], [0, 1, 2])
        call.sendall(json.dumps(request).encode() + b"\n")
        return (call.recv(1) or b"\x01")[0]


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(_ask(sys.argv[1], sys.argv[3:]))
    _serve(sys.argv[1])
