"""Stages without the seconds that importing torch takes: a process that has imported it forks for each of them.

Run as a program, this file is that process: it takes a socket's path and serves until its input ends. ``python`` in
the folder that ``warm`` makes sends ``python -m stages.<name>`` to it and everything else to Python itself. A stage has
the arguments, folder, environment and streams of its call; its own code is imported when it starts, from that folder.
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
import time
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
  "-m stages."*) exec "{python}" -S -E "{here}" "{address}" "$@" ;;
  *) exec "{python}" "$@" ;;
esac
"""


@contextmanager
def warm() -> Iterator[Path]:
    """Yields a folder whose ``python`` starts stages quickly; to be put in front of PATH."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))  # short: a socket's path has 100 characters at most
    address, launcher = folder / "socket", folder / "python"
    launcher.write_text(LAUNCHER.format(python=sys.executable, here=__file__, address=address))
    launcher.chmod(0o755)
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    # It ends with us, however we end: its input does.
    server = subprocess.Popen([sys.executable, __file__, str(address)], env=env, stdin=subprocess.PIPE)
    try:
        while not address.exists():
            assert server.poll() is None, "it ended before it served anything"
            time.sleep(0.05)
        yield folder
    finally:
        server.communicate()
        shutil.rmtree(folder)


def serve(address: str) -> None:
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
    while more := call.recv(1 << 20):
        request += more
    if stage := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1])
        with suppress(OSError):  # nobody waits any more
            call.send(str(code if code >= 0 else 128 - code).encode())
        os._exit(0)
    call.close()
    for own, given in enumerate(streams):
        os.dup2(given, own)
        os.close(given)
    become(**json.loads(request))


def become(arguments: list[str], folder: str, env: dict[str, str]) -> None:
    """Runs ``python -m`` with the given arguments in this process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0], sys.argv = folder, arguments
    importlib.import_module("torch").set_num_threads(int(env["OMP_NUM_THREADS"]))  # read once, at its import
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def ask(address: str, arguments: list[str]) -> int:
    """Has a stage run, and returns its exit code."""
    request: dict[str, Any] = {"arguments": arguments, "folder": str(Path.cwd()), "env": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as call:
        call.connect(address)
        socket.send_fds(call, [b" "], [0, 1, 2])
        call.sendall(json.dumps(request).encode())
        call.shutdown(socket.SHUT_WR)
        return int(call.recv(16) or b"1")


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(ask(sys.argv[1], sys.argv[3:]))
    serve(sys.argv[1])
