"""From a command to a running gateway: which config, which event loop, and one line if it fails."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import uvloop

from app import embedded
from app.audit import AuditError
from app.decisions import DecisionsError
from app.keyfile import KeysError
from app.log import LogError
from app.operators import OperatorsError
from app.serve import Listen, ServeError, serve
from app.tracing.tracing import TracingError
from app.workers import serve_many
from policies import TABLE
from router.config import ConfigError, Document, load_file, parse
from router.runtime import build

REFUSALS = (
    AuditError, ConfigError, DecisionsError, KeysError, LogError, OperatorsError, ServeError,
    TracingError,
    embedded.EmbeddedError,
)  # fmt: skip
"""What can be wrong at start; each says in one line what to do."""


FILES = (1 << 20, 65_536, 10_240)
"""Open files to ask for where the hard limit is not allowed itself; macOS allows the last."""


def start(file: Path | None, listen: Listen, workers: int = 1) -> int:
    """Serve the config in `file`, or the embedded pair if there is none, with so many processes;
    gives the exit status.
    """
    open_more_files()
    try:
        if file is None:
            uvloop.run(_serve_embedded(listen, workers))
        else:
            uvloop.run(_serve(load_file(file, TABLE), listen, workers))
    except REFUSALS as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    return 0


def open_more_files() -> None:
    """Allow as many open files as the hard limit does: the usual soft limit of 1,024 is for
    programs that use `select`, and would be 500 clients here.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (hard, resource.RLIM_INFINITY):
        return
    for wanted in (hard, *(files for files in FILES if files > soft)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


async def _serve_embedded(listen: Listen, workers: int) -> None:
    pair = await embedded.start()
    try:
        document = parse(pair.document, TABLE, "the embedded pair")
        await _serve(document, listen, workers, embedded=True)
    finally:
        await pair.close()


async def _serve(
    document: Document, listen: Listen, workers: int, *, embedded: bool = False
) -> None:
    if workers > 1:
        await serve_many(document, listen, workers, embedded=embedded)
    else:
        await serve(document, listen, embedded=embedded)


def check(file: Path, *, as_json: bool) -> int:
    """Say whether the config in `file` could be served."""
    try:
        document = load_file(file, TABLE)
        build(_without_keys(document), TABLE, 1)
    except ConfigError as error:
        if as_json:
            problems = [
                {"path": p.path, "reason": p.reason, "line": p.line} for p in error.problems
            ]
            print(json.dumps({"ok": False, "problems": problems}))
        else:
            print(error, file=sys.stderr)
        return 1
    print(json.dumps({"ok": True, "problems": []}) if as_json else _summary(document))
    return 0


def _without_keys(document: Document) -> Document:
    """The same, asking for no secret: only the machine that serves can tell whether it is there."""
    none = {"api_key_env": None, "api_key_file": None}
    models = document.config.models.items()
    keyless = MappingProxyType({name: model.model_copy(update=none) for name, model in models})
    return replace(document, config=document.config.model_copy(update={"models": keyless}))


def _summary(document: Document) -> str:
    models, policies = document.config.models, document.policies
    return (
        f"{document.written.source} is good: models {', '.join(models)}; "
        f"policies {', '.join(policies) or 'none'}; default {document.default}"
    )
