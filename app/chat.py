"""`tandem chat`: talk to a gateway in the terminal, and see which model wrote what.

Here are the command, and the course of a conversation; `app.conversation` talks to the gateway,
`app.screen` to the terminal. Nothing that is said is written to a disk.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from math import floor, log10
from typing import Any

from app.conversation import Answer, Card, ChatError, Gateway, Piece, largest
from app.screen import UNSEEN, Screen, wants_colours
from router.explain import suggest

URL = "http://127.0.0.1:8000"
HELP = """\
/model NAME  ask another model or policy; without a name: list them
/clear       forget what was said
/help        show this list
/quit        leave, as Ctrl-D does; Ctrl-C stops an answer"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("prompt", nargs="?", metavar="PROMPT", help="say this and leave; default: a conversation")
    add("--url", default=URL, help="of the gateway (default: %(default)s)")
    add("--model", metavar="NAME", help="policy or model to ask (default: the gateway's own)")
    add("--system", metavar="TEXT", help="what the models are told beforehand")
    add("--temperature", type=float, metavar="T", help="0: the likeliest words only")
    add("--key-env", metavar="NAME", help="environment variable that holds an API key")
    add("--no-color", action="store_true", help="no colours, as with NO_COLOR in the environment")
    add("--json", action="store_true", help="each answer as a line of JSON")


def main(options: argparse.Namespace) -> int:
    """Run the command; the return value is the exit status."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an odd character must not end a conversation
    screen = Screen([], not options.no_color and wants_colours(os.environ))
    try:
        with closing(Gateway(options.url, _key(options.key_env))) as gateway:
            _converse(Talk(gateway, gateway.cards(), screen, _body(options)), options)
    except ChatError as error:
        screen.complain(error)
        return 1
    return 0


def _key(variable: str | None) -> str | None:
    if variable is not None and not os.environ.get(variable):
        raise ChatError(f"--key-env: the environment has no {variable}; export it first")
    return None if variable is None else os.environ[variable]


def _body(options: argparse.Namespace) -> Mapping[str, Any]:
    return {} if options.temperature is None else {"temperature": options.temperature}


def _converse(talk: Talk, options: argparse.Namespace) -> None:
    talk.choose(options.model)
    talk.as_json = options.json
    if options.system is not None:
        talk.before = [_message("system", options.system)]
    if options.prompt is not None:
        talk.say(options.prompt)
    elif sys.stdin.isatty():
        talk.run()
    else:
        talk.say(sys.stdin.read())


def _message(role: str, text: str) -> Mapping[str, str]:
    """A message; what is no character in an argument or a terminal is replaced."""
    return {"role": role, "content": text.encode(errors="replace").decode()}


@dataclass(slots=True)
class Talk:
    """One conversation. `body` holds the other fields of each request, `before` the messages that
    are never forgotten, `said` those since.
    """

    gateway: Gateway
    cards: Sequence[Card]
    screen: Screen
    body: Mapping[str, Any]
    model: str = ""
    as_json: bool = False
    before: list[Mapping[str, str]] = field(default_factory=list)
    said: list[Mapping[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.screen.models.extend(card.name for card in self.cards if not card.policy)

    def choose(self, name: str | None) -> None:
        """Ask this model from now on, or the gateway's default. Raises `ChatError`."""
        known = {card.name: card for card in self.cards}
        if name is None:
            default = (card.name for card in self.cards if card.default)
            name = next(default, self.cards[0].name)
        if name not in known:
            raise ChatError(f'there is no model or policy named "{name}"{suggest(name, known)}')
        self.model = name

    # ----------------------------------------------------------------------------- one answer

    def say(self, text: str) -> None:
        """Say it, and show the answer as it comes. Raises `ChatError`; what came until Ctrl-C is
        remembered as said.
        """
        if not text.strip():
            raise ChatError("there is nothing to say: give a PROMPT, or text on standard input")
        asked, answer = _message("user", text), Answer()
        messages = [*self.before, *self.said, asked]
        body = {**self.body, "model": self.model, "messages": messages}
        try:
            with closing(self.gateway.ask(body, answer)) as pieces:
                self._show(pieces)
        except KeyboardInterrupt:
            self._remember(asked, answer)
            raise
        finally:
            self.screen.end()
        self._remember(asked, answer)
        if self.as_json:
            self.screen.line(json.dumps(_record(self.model, answer), ensure_ascii=False))
        else:
            self.screen.tell(" | ".join(self._figures(answer)))

    def _show(self, pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            if not self.as_json:
                self.screen.say(piece.text, piece.model, aside=piece.aside)

    def _remember(self, asked: Mapping[str, str], answer: Answer) -> None:
        if answer.text:
            self.said += [asked, _message("assistant", answer.text)]

    def _figures(self, answer: Answer) -> Iterator[str]:
        """What there is to tell of an answer, in words."""
        large, told = largest(self.cards), answer.told
        if written := answer.written:
            yield _tokens(written, large, self.screen)
        if answer.finish == "length":
            yield "cut off at its greatest length"
        if isinstance(cost := told.get("cost_usd"), float | int):
            alone = f" ({usd(told.get('baseline_usd') or 0)} on {large} alone)" if large else ""
            yield usd(cost) + alone
        if answer.first is not None:
            rate = "" if answer.rate is None else f", then {answer.rate:.0f} tokens/s"
            yield f"first text after {answer.first:.2f} s{rate}"
        if reason := told.get("reason"):
            yield str(reason).translate(UNSEEN)

    # -------------------------------------------------------------------------- a conversation

    def run(self) -> None:
        """Talk until the user leaves."""
        with suppress(ImportError):
            import readline  # noqa: F401  # from here on `input` can edit a line and has a history
        models = ", ".join([self.screen.named(name) for name in self.screen.models])
        self.screen.tell(f"{self.model} at {self.gateway.url}, which has {models}")
        self.screen.tell("/help shows the commands; Ctrl-C stops an answer, Ctrl-D leaves")
        while (line := self._heard()) is not None:
            try:
                if line.startswith("/"):
                    if self._command(line):
                        return
                elif line:
                    self.say(line)
            except KeyboardInterrupt:
                self.screen.tell("stopped")
            except ChatError as error:
                self.screen.complain(error)

    def _heard(self) -> str | None:
        """The next line, without the blanks around it; None if there will be none."""
        try:
            return self.screen.ask(f"{self.model}> ").strip()
        except EOFError:
            self.screen.tell("")
            return None
        except KeyboardInterrupt:
            self.screen.tell("\nCtrl-D leaves")
            return ""

    def _command(self, line: str) -> bool:
        """Obey; True if the user wants to leave."""
        match line.split():
            case ["/quit"]:
                return True
            case ["/clear"]:
                self.said.clear()
                self.screen.tell("forgotten")
            case ["/model"]:
                names = [f"*{c.name}" if c.name == self.model else c.name for c in self.cards]
                self.screen.tell("  ".join(names))
            case ["/model", name]:
                self.choose(name)
            case ["/help"]:
                self.screen.tell(HELP)
            case _:
                raise ChatError(f"there is no command {line}; /help shows those there are")
        return False


def usd(amount: float) -> str:
    """Dollars, to the cent or to two digits that say something: $1.25, $0.0000075."""
    decimals = max(2, 1 - floor(log10(amount))) if amount > 0 else 2
    return f"${amount:.{decimals}f}"


def _tokens(written: Mapping[str, int], large: str | None, screen: Screen) -> str:
    total = sum(written.values())
    listed = " + ".join([f"{screen.named(model)} {count}" for model, count in written.items()])
    share = f", {written.get(large, 0) / total:.0%} {large}" if large and total else ""
    return f"{listed} tokens{share}"


def _record(asked: str, answer: Answer) -> Mapping[str, Any]:
    """All that is known of an answer, for programs."""
    return {
        "asked": asked,
        "text": answer.text,
        "pieces": [asdict(piece) for piece in answer.pieces],
        "finish_reason": answer.finish,
        "first_text_s": answer.first,
        "tokens_per_s": answer.rate,
        "tandem": answer.told,
    }
