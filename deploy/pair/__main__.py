"""Serve models of the pair over HTTP, one process for one or more.

    python -m deploy.pair --model deploy/pair/models/small --served-model-name small --port 8101
    python -m deploy.pair --model small=deploy/pair/models/small --model large=...

Prints `listening on http://HOST:PORT` when it is ready, and nothing else on stdout. With
`--exit-with-parent` it ends when its standard input does: whoever started it holds the other end
of that pipe, and the system closes it even when that process is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from deploy.pair.engine import Limits
from deploy.pair.graph import ModelFilesError
from deploy.pair.served import Served
from deploy.pair.server import Application

# A client that leaves ends its request; so at shutdown a second is enough to finish a write.
_LAST_SECONDS = 1


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"listening on http://{shown}:{port}", flush=True)


def main() -> None:
    """Load, listen, serve; a one-line error and status 1 when that cannot be."""
    options = _parser().parse_args()
    if len(options.model) > 1 and not all("=" in model for model in options.model):
        _parser().error("with more than one --model, each needs a name: --model NAME=FOLDER")
    try:
        listener = _listen(options.host, options.port)
        limits = Limits(options.max_num_seqs, options.max_num_queued_reqs)
        named = [_named(model, options.served_model_name) for model in options.model]
        models = [Served(name, folder, limits) for name, folder in named]
    except (ModelFilesError, OSError, ValueError) as error:
        sys.exit(f"pair: {error}")
    config = uvicorn.Config(
        Application(models, sleep_mode=options.sleep_mode),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    server = _Server(config)
    if options.exit_with_parent:
        threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended well, then repeats the signal
        server.run(sockets=[listener])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.pair", description="Serve the embedded pair like a vLLM server."
    )
    add = parser.add_argument
    add("--model", action="append", required=True, metavar="[NAME=]FOLDER")
    add("--served-model-name", metavar="NAME", help="default: the folder's name")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    add("--max-num-seqs", type=int, default=Limits().running, help="answers made at once")
    add("--max-num-queued-reqs", type=int, default=Limits().waiting, help="answers in line")
    add("--sleep-mode", action="store_true", help="let /sleep and /wake_up free its memory")
    add("--exit-with-parent", action="store_true", help="end when standard input ends")
    return parser


def _named(model: str, name: str | None) -> tuple[str, Path]:
    given, _, folder = model.rpartition("=")
    return given or name or Path(folder).name, Path(folder)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        reason = error.strerror or error
        hint = "choose another with --port, or 0 for any free one"
        raise OSError(f"cannot listen on {host}:{port} ({reason}): {hint}") from error
    return listener


def _end_with_stdin(server: uvicorn.Server) -> None:
    while os.read(0, 1):
        pass
    server.should_exit = server.force_exit = True


if __name__ == "__main__":
    main()
