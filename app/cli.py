"""The command line: reads arguments, calls one function, turns failures into one line and a status.

Exit status: 0 well, 1 it could not be done (the reason is on stderr), 2 the command was wrong.
Slow imports happen inside the commands, so that `tandem --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001
    """What `add_subparsers` gives; argparse has no public name for it."""

DESCRIPTION = "An OpenAI-compatible gateway that lets a small and a large model share the work."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tandem", description=DESCRIPTION)
    parser.set_defaults(command=_helping(parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _serving(commands)
    _learning(commands)
    _judging(commands)
    _measuring(commands)
    return parser


def _serving(commands: Commands) -> None:
    from app import chat, corpus
    from app.arguments import count

    serve = _command(commands, "serve", "run the gateway", _serve)
    serve.add_argument(
        "--config", type=Path, metavar="FILE", help="gateway.yaml; default: the embedded pair"
    )
    serve.add_argument("--host", help="address to listen on, instead of listen.host")
    serve.add_argument("--port", type=int, help="port to listen on, instead of listen.port")
    serve.add_argument("--admin-port", type=int, help="the admin's, instead of admin.port")
    serve.add_argument(
        "--workers", type=count, default=1, metavar="N", help="processes (default: %(default)s)"
    )
    check = _command(commands, "check", "check a config without running it", _check)
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--json", action="store_true", help="the verdict as JSON")
    chat.add_arguments(
        _command(commands, "chat", "talk to a gateway, and see which model wrote what", chat.main)
    )
    corpora = _group(commands, "corpus", "documents that are kept with the gateway")
    for action, about in {
        "add": "make a corpus of files, or add files to one",
        "embed": "make the vectors of a corpus, and keep them beside it",
        "list": "the corpora that there are",
        "show": "the documents of a corpus",
        "remove": "remove a corpus, or one of its documents",
    }.items():
        corpus.add_arguments(_command(corpora, action, about, corpus.main), action)
    keys = _group(commands, "keys", "make API keys")
    new = _command(keys, "new", "make a key and its entry for the keys file", _new_key)
    new.add_argument("name", metavar="NAME", help="what the log calls the key")


def _learning(commands: Commands) -> None:
    from app import calibrate, calibrate_samples, train, train_context, train_experts

    about = "learn what a policy needs, from running models or from rows"
    trains = _group(commands, "train", about)
    about = "learn where the large model must write"
    train.add_arguments(_command(trains, "token-gate", about, train.main))
    about = "learn which model suits which prompt"
    train_experts.add_arguments(_command(trains, "experts", about, train_experts.main))
    about = "learn to judge questions about documents"
    train_context.add_arguments(_command(trains, "context", about, train_context.main))
    about = "learn from public outcomes, for routers"
    train_experts.add_prior_arguments(_command(trains, "prior", about, train_experts.main_prior))
    calibrates = _group(commands, "calibrate", "find a policy's threshold on prompts of your own")
    for kind in calibrate.USES:
        about = f"the threshold of `use: {calibrate.USES[kind]}` for a share or a quality"
        calibrate.add_arguments(_command(calibrates, kind, about, calibrate.main), kind)
    about = "how many samples of `use: best_of` are worth their price"
    calibrate_samples.add_arguments(_command(calibrates, "best-of", about, calibrate_samples.main))


def _judging(commands: Commands) -> None:
    from app import evaluate, outcomes, predict, rows

    about = "ask models, and mark their answers: rows of outcomes"
    outcomes.add_arguments(_command(commands, "outcomes", about, outcomes.main))
    about = "turn outcomes of any known shape into a file of rows"
    rows.add_arguments(_command(commands, "rows", about, rows.main))
    about = "what a trained router thinks of prompts"
    predict.add_arguments(_command(commands, "predict", about, predict.main))
    about = "what a policy is worth, on outcomes or a log"
    evaluate.add_arguments(_command(commands, "eval", about, evaluate.main))


def _measuring(commands: Commands) -> None:
    from app.bench import (
        backend,
        context,
        embedder,
        experts,
        handoffs,
        overhead,
        overload,
        pair,
        retrieval,
        serving,
        verifier,
    )

    benches = _group(commands, "bench", "measure the gateway, or policies on the embedded pair")
    about = "what the gateway itself costs"
    overhead.add_arguments(_command(benches, "overhead", about, overhead.main))
    about = "what is left of a model's throughput under overload"
    overload.add_arguments(_command(benches, "overload", about, overload.main))
    about = "what a prompt's vector costs a router"
    embedder.add_arguments(_command(benches, "embedder", about, embedder.main))
    about = "how well questions about documents are judged, and what that is worth"
    context.add_arguments(_command(benches, "context", about, context.main))
    about = "how long a decision among experts takes"
    experts.add_arguments(_command(benches, "experts", about, experts.main))
    about = "how often a search in documents finds what answers, and how long it takes"
    retrieval.add_arguments(_command(benches, "retrieval", about, retrieval.main))
    about = "what hand-offs between models cost"
    handoffs.add_arguments(_command(benches, "handoffs", about, handoffs.main))
    about = "how long an idle server takes, by lengths: a model's idealised runtime"
    backend.add_arguments(_command(benches, "backend", about, backend.main))
    about = "tokens/s of a policy and of its large model"
    serving.add_arguments(_command(benches, "serving", about, serving.main))
    about = "quality and cost of policies on the embedded pair"
    pair.add_arguments(_command(benches, "pair", about, pair.main))
    about = "what a verifier's faults do to sampling, on the embedded pair"
    verifier.add_arguments(_command(benches, "verifier", about, verifier.main))


def _group(commands: Commands, name: str, about: str) -> Commands:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(command=_helping(parser))
    return parser.add_subparsers(title="commands", metavar="COMMAND")


def _command(
    commands: Commands,
    name: str,
    about: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(command=run)
    return parser


def _helping(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """A command line that stops too early: show what could follow."""

    def show(_: argparse.Namespace) -> int:
        parser.print_help(sys.stderr)
        return 2

    return show


def _serve(options: argparse.Namespace) -> int:
    # Before numpy is first imported: a decision is one row, and threads that wait for each other
    # take ten times as long for it where cores are busy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from app.serve import Listen
    from app.start import start

    listen = Listen(options.host, options.port, options.admin_port)
    return start(options.config, listen, options.workers)


def _check(options: argparse.Namespace) -> int:
    from app.start import check

    return check(options.file, as_json=options.json)


def _new_key(options: argparse.Namespace) -> int:
    from app.keys import new_key

    secret, entry = new_key(options.name)
    print(f"{secret}", file=sys.stderr)
    print("Shown once: give it to whoever will use it. For the keys file:", file=sys.stderr)
    print(entry.yaml())
    return 0
