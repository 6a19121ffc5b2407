"""The command line: reads arguments, calls one function, turns failures into one line and a status.

Exit status: 0 well, 1 it could not be done (the reason is on stderr), 2 the command was wrong.
Slow imports happen inside the commands, so that `tandem --help` answers at once.
"""

from __future__ import annotations

import argparse
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
    from app import calibrate, chat, evaluate, outcomes, predict, rows, train, train_experts
    from app.bench import handoffs, overhead, pair, serving

    parser = argparse.ArgumentParser(prog="tandem", description=DESCRIPTION)
    parser.set_defaults(command=_helping(parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    serve = _command(commands, "serve", "run the gateway", _serve)
    serve.add_argument(
        "--config", type=Path, metavar="FILE", help="gateway.yaml; default: the embedded pair"
    )
    serve.add_argument("--host", help="address to listen on, instead of listen.host")
    serve.add_argument("--port", type=int, help="port to listen on, instead of listen.port")
    serve.add_argument("--admin-port", type=int, help="the admin's, instead of admin.port")
    check = _command(commands, "check", "check a config without running it", _check)
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--json", action="store_true", help="the verdict as JSON")
    chat.add_arguments(
        _command(commands, "chat", "talk to a gateway, and see which model wrote what", chat.main)
    )
    keys = _group(commands, "keys", "make API keys")
    new = _command(keys, "new", "make a key and its entry for the keys file", _new_key)
    new.add_argument("name", metavar="NAME", help="what the log calls the key")
    trains = _group(
        commands, "train", "learn what a policy needs, from running models or from rows"
    )
    train.add_arguments(
        _command(trains, "token-gate", "learn where the large model must write", train.main)
    )
    train_experts.add_arguments(
        _command(trains, "experts", "learn which model suits which prompt", train_experts.main)
    )
    train_experts.add_prior_arguments(
        _command(
            trains, "prior", "learn from public outcomes, for routers", train_experts.main_prior
        )
    )
    predict.add_arguments(
        _command(commands, "predict", "what a trained router thinks of prompts", predict.main)
    )
    calibrates = _group(commands, "calibrate", "find a policy's threshold on prompts of your own")
    for kind in calibrate.USES:
        about = f"the threshold of `use: {calibrate.USES[kind]}` for a share or a quality"
        calibrate.add_arguments(_command(calibrates, kind, about, calibrate.main), kind)
    outcomes.add_arguments(
        _command(commands, "outcomes", "ask models and mark their answers", outcomes.main)
    )
    rows.add_arguments(
        _command(
            commands, "rows", "turn outcomes of any known shape into a file of rows", rows.main
        )
    )
    evaluate.add_arguments(
        _command(commands, "eval", "what a policy is worth, on outcomes or a log", evaluate.main)
    )
    benches = _group(commands, "bench", "measure the gateway, or policies on the embedded pair")
    overhead.add_arguments(
        _command(benches, "overhead", "what the gateway itself costs", overhead.main)
    )
    handoffs.add_arguments(
        _command(benches, "handoffs", "what hand-offs between models cost", handoffs.main)
    )
    serving.add_arguments(
        _command(benches, "serving", "tokens/s of a policy and of its large model", serving.main)
    )
    pair.add_arguments(
        _command(benches, "pair", "quality and cost of policies on the embedded pair", pair.main)
    )
    return parser


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
    from app.serve import Listen
    from app.start import start

    return start(options.config, Listen(options.host, options.port, options.admin_port))


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
