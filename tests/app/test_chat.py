"""`tandem chat`: what is shown of an answer and where, what of a failure, and how one leaves.

A scripted server plays the gateway, so that every byte and every pause is the test's own; with a
real gateway, and the embedded pair behind it, `test_gateway_pair` talks.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.chat import usd
from app.cli import main
from app.conversation import Card, largest
from app.screen import Screen, wants_colours
from tests.conftest import Started
from tests.running import config
from tests.scripted import (
    DONE,
    PATIENCE,
    Backend,
    Call,
    Script,
    answers,
    chat_events,
    chunk,
    event,
    hangs_up,
    pauses,
    scripted,
    stalls,
    streams,
)

ROOT = Path(__file__).parents[2]
COMING_UP = 30.0
"""Seconds for a process to come up: importing takes most of one on a busy machine."""
CARDS = {
    "data": [
        {"id": "auto", "tandem": {"kind": "policy", "default": True}},
        {"id": "small", "tandem": {"kind": "model", "price": {"output": 0.1}, "params_b": 1.7}},
        {"id": "large", "tandem": {"kind": "model", "price": {"output": 1.2}, "params_b": 32}},
    ]
}
TOLD = {
    "models": {"small": 3, "large": 1},
    "cost_usd": 0.0000075,
    "baseline_usd": 0.000021,
    "reason": "in_engine; 1 of 4 tokens by large, in 1 turns",
}


def wrote(model: str, text: str) -> bytes:
    """An event of a composed answer, explained."""
    said = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return event({**said, "model": "auto", "tandem": {"model": model, "tokens": [7]}})


CLOSING = f": tandem {json.dumps(TOLD)}\n\n".encode() + DONE
TOGETHER = [wrote("small", "Hel"), wrote("large", "lo"), chunk({}, "stop"), CLOSING]


@dataclass(slots=True)
class Played:
    """A scripted gateway: its address, and the chats it was asked for."""

    url: str
    chats: list[Call] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=lambda: [streams(*TOGETHER)])

    async def play(self, call: Call) -> None:
        if call.path == "/v1/models":
            await answers(CARDS)(call)
            return
        self.chats.append(call)
        await (self.scripts[0] if len(self.scripts) == 1 else self.scripts.pop(0))(call)

    def said(self, number: int = -1) -> list[str]:
        """The messages of a chat."""
        return [message["content"] for message in self.chats[number].json["messages"]]


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    async with scripted() as server:
        it = Played(server.url)
        server.asked = it.play
        yield it


@dataclass(frozen=True, slots=True)
class Run:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


Chat = Callable[..., Awaitable[Run]]


@pytest.fixture
def chat(capsys: pytest.CaptureFixture[str]) -> Chat:
    """Runs `tandem chat` to its end, in a thread of this process."""

    async def run(url: str, *arguments: str) -> Run:
        status = await asyncio.to_thread(main, ["chat", "--url", url, *arguments])
        said = capsys.readouterr()
        return Run(status, said.out, said.err)

    return run


# ----------------------------------------------------------------------------------- one answer


async def test_the_answer_goes_out_and_all_about_it_aside(chat: Chat, played: Played) -> None:
    run = await chat(played.url, "Hello?")
    assert (run.status, run.out) == (0, "Hello\n")
    assert re.fullmatch(
        r"small 3 \+ large 1 tokens, 25% large \| \$0\.0000075 \(\$0\.000021 on large alone\) \| "
        r"first text after \d\.\d\d s, then \d+ tokens/s \| in_engine; 1 of 4 tokens .*\n",
        run.err,
    )


async def test_what_is_asked(chat: Chat, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-canary")
    more = ("--model", "small", "--system", "Be brief.", "--temperature", "0", "--key-env", "A_KEY")
    assert (await chat(f"{played.url}/v1/", "Hello?", *more)).status == 0
    (call,) = played.chats
    assert call.path == "/v1/chat/completions"
    assert call.headers["x-tandem-explain"] == "1"
    assert call.headers["authorization"] == "Bearer sk-canary"
    asked = call.json
    assert (asked["model"], asked["stream"], asked["temperature"]) == ("small", True, 0)
    assert [m["role"] for m in asked["messages"]] == ["system", "user"]
    assert played.said() == ["Be brief.", "Hello?"]


async def test_without_a_name_the_gateways_default_is_asked(chat: Chat, played: Played) -> None:
    await chat(played.url, "Hello?")
    assert played.chats[0].json["model"] == "auto"
    assert "temperature" not in played.chats[0].json


async def test_a_question_may_come_by_a_pipe(
    chat: Chat, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Two\nlines?\n"))
    assert (await chat(played.url)).out == "Hello\n"
    assert played.said() == ["Two\nlines?\n"]


async def test_an_answer_as_json(chat: Chat, played: Played) -> None:
    run = await chat(played.url, "Hello?", "--json")
    told = json.loads(run.out)
    assert (run.err, run.out.count("\n")) == ("", 1)
    assert (told["asked"], told["text"], told["finish_reason"]) == ("auto", "Hello", "stop")
    assert [(p["model"], p["text"]) for p in told["pieces"]] == [("small", "Hel"), ("large", "lo")]
    assert told["tandem"] == TOLD


async def test_any_server_of_openais_api_will_do(chat: Chat, played: Played) -> None:
    """Without Tandem's own fields, what is left is told."""
    played.scripts = [streams(*chat_events(["Hel", "lo"], "qwen"))]
    run = await chat(played.url, "Hello?", "--json")
    assert {piece["model"] for piece in json.loads(run.out)["pieces"]} == {"qwen"}
    run = await chat(played.url, "Hello?")
    assert run.out == "Hello\n"
    assert re.fullmatch(r"first text after \d\.\d\d s(, then \d+ tokens/s)?\n", run.err)


async def test_through_a_real_gateway(chat: Chat, gateway: Started, small: Backend) -> None:
    """A relayed answer is explained by its header."""
    running = await gateway(config({"small": small}))
    told = json.loads((await chat(running.url, "Hello?", "--json")).out)
    assert [(p["model"], p["text"]) for p in told["pieces"]] == [("small", "Hel"), ("small", "lo")]
    assert told["tandem"]["models"] == {"small": 2}


async def test_reasoning_is_shown(chat: Chat, played: Played) -> None:
    thought = [chunk({"reasoning": "So"}), chunk({"reasoning_content": "..."})]
    played.scripts = [streams(*thought, *TOGETHER)]
    told = json.loads((await chat(played.url, "Hello?", "--json")).out)
    assert told["text"] == "Hello"
    assert [piece["text"] for piece in told["pieces"] if piece["aside"]] == ["So", "..."]


async def test_an_answer_that_was_cut_off_says_so(chat: Chat, played: Played) -> None:
    played.scripts = [streams(wrote("small", "Hel"), chunk({}, "length"), CLOSING)]
    assert "cut off at its greatest length" in (await chat(played.url, "Hello?")).err


async def test_an_answer_that_ends_its_line_gets_no_other(chat: Chat, played: Played) -> None:
    played.scripts = [streams(wrote("small", "7\n"), CLOSING)]
    assert (await chat(played.url, "Hello?")).out == "7\n"


async def test_line_ends_of_other_scripts_are_text(chat: Chat, played: Played) -> None:
    """What splits lines for Python splits no event."""
    odd = "a\u2028b\x85c\x0bd"
    played.scripts = [streams(wrote("small", odd), CLOSING)]
    assert (await chat(played.url, "Hello?")).out == f"{odd}\n"


# ----------------------------------------------------------------------------------- what fails


def complaint(run: Run, *says: str) -> None:
    """It ended with one line that says all this."""
    assert run.status == 1
    assert re.fullmatch(r"tandem: .*\n", run.err), run.err
    for word in says:
        assert word in run.err


async def test_where_nothing_listens_it_says_how_to_start_one(chat: Chat) -> None:
    complaint(await chat("http://127.0.0.1:9", "Hello?"), "127.0.0.1:9", "`tandem serve`", "--url")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://", "http://a:b", "nonsense"])
async def test_an_address_that_is_none(chat: Chat, url: str) -> None:
    complaint(await chat(url, "Hello?"), url)


async def test_a_model_that_is_not_there(chat: Chat, played: Played) -> None:
    run = await chat(played.url, "Hello?", "--model", "lareg")
    complaint(run, '"lareg"', 'did you mean "large"?')
    assert not played.chats


async def test_a_key_that_is_not_there(
    chat: Chat, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH", raising=False)
    complaint(await chat(played.url, "Hello?", "--key-env", "NO_SUCH"), "NO_SUCH", "export")


async def test_nothing_to_say(chat: Chat, played: Played) -> None:
    complaint(await chat(played.url, " "), "nothing to say", "PROMPT")


def error(message: str) -> Mapping[str, Any]:
    return {"error": {"message": message, "type": "server_error", "param": None, "code": "x"}}


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (answers(error("no key"), 401), ["no key", "--key-env"]),
        (answers(error("two\nlines"), 502), ["(502)", "two lines"]),
        (answers(b"<html>", 404, "text/html"), ["(404)"]),
        (answers(error("\x1b[2Jgone"), 502), ["(502): [2Jgone"]),
        (streams(b"data: <html>\n\n"), ["not JSON"]),
        (hangs_up, ["the connection", "broke", "ask again"]),
        (streams(wrote("small", "Hel")), ["broke off", "before it was complete"]),
        (streams(wrote("small", "Hel"), event(error("dead"))), ["broke off", "dead"]),
    ],
)
async def test_a_refusal_and_a_break_are_one_line(
    chat: Chat, played: Played, script: Script, says: Sequence[str]
) -> None:
    played.scripts = [script]
    run = await chat(played.url, "Hello?")
    complaint(run, *says)
    assert run.out in ("", "Hel\n"), "what came is shown"


async def test_who_is_told_to_wait_is_told_how_long(chat: Chat, played: Played) -> None:
    async def busy(call: Call) -> None:
        body = json.dumps(error("full")).encode()
        await call.whole(body, 503, headers=[("retry-after", "7")])

    played.scripts = [busy]
    complaint(await chat(played.url, "Hello?"), "full", "try again in 7 s")


async def test_a_server_that_lists_no_models(chat: Chat) -> None:
    async with scripted() as server:
        server.asked = answers({})
        complaint(await chat(server.url, "Hello?"), "lists no models")
        server.asked = answers(b"<html>", 200, "text/html")
        complaint(await chat(server.url, "Hello?"), "is it a gateway?")


# ------------------------------------------------------------------------------- a conversation


CTRL_C = "\x03"


class Typed(io.StringIO):
    """A keyboard on which these lines are typed, and then Ctrl-D."""

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]  # a base has bytes
        line = super().readline(size or -1)
        if line.strip() == CTRL_C:
            raise KeyboardInterrupt
        return line


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def type_(*lines: str) -> None:
        monkeypatch.setattr(sys, "stdin", Typed("".join(f"{line}\n" for line in lines)))

    return type_


async def test_a_conversation_is_remembered_until_it_is_cleared(
    chat: Chat, played: Played, typed: Callable[..., None]
) -> None:
    typed("One?", "", "Two?", "/clear", "Three?", "/quit", "never")
    run = await chat(played.url, "--system", "Be brief.")
    assert run.status == 0
    assert [played.said(n) for n in range(len(played.chats))] == [
        ["Be brief.", "One?"],
        ["Be brief.", "One?", "Hello", "Two?"],
        ["Be brief.", "Three?"],
    ]


async def test_it_begins_with_who_is_there(
    chat: Chat, played: Played, typed: Callable[..., None]
) -> None:
    typed()
    run = await chat(played.url)
    assert run.status == 0, "Ctrl-D leaves"
    assert run.err.startswith(f"auto at {played.url}, which has small, large\n/help")


async def test_commands(chat: Chat, played: Played, typed: Callable[..., None]) -> None:
    typed("/model", "/model large", "Hello?", "/model nobody", "/help", "/dance on", "/model")
    run = await chat(played.url)
    assert played.chats[0].json["model"] == "large"
    assert "*auto  small  large\n" in run.err
    assert "auto  small  *large\n" in run.err
    assert "large> " in run.err
    assert 'no model or policy named "nobody"' in run.err
    assert "there is no command /dance on; /help" in run.err
    assert "/clear       forget" in run.err


async def test_ctrl_c_while_nothing_is_said_leaves_nothing(
    chat: Chat, played: Played, typed: Callable[..., None]
) -> None:
    typed(CTRL_C, "One?")
    run = await chat(played.url)
    assert "Ctrl-D leaves\n" in run.err
    assert (run.status, run.out) == (0, "Hello\n")


async def test_a_failure_ends_no_conversation(
    chat: Chat, played: Played, typed: Callable[..., None]
) -> None:
    """What was not answered was not said."""
    played.scripts = [answers(error("no"), 502), streams(*TOGETHER)]
    typed("One?", "Two?")
    run = await chat(played.url)
    assert (run.status, run.out) == (0, "Hello\n")
    assert "tandem: the gateway refuses (502): no\n" in run.err
    assert played.said() == ["Two?"]


# ------------------------------------------------------------------------------- in a terminal


@dataclass(slots=True)
class Terminal:
    """A terminal in which the command runs, as somebody who reads and types sees it."""

    master: int
    seen: bytes = b""
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def read(self) -> None:
        try:
            self.seen += os.read(self.master, 1 << 16)
        except OSError:  # nobody has it open any more: so a terminal on Linux ends
            asyncio.get_running_loop().remove_reader(self.master)
        self._more.set()

    async def until(self, text: str) -> str:
        """What was shown up to and with this text; it counts as seen."""
        async with asyncio.timeout(COMING_UP):
            while text.encode() not in self.seen:
                self._more.clear()
                await self._more.wait()
        shown, _, self.seen = self.seen.partition(text.encode())
        return shown.decode() + text

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())


OPENED = (
    "import os, sys; os.close(os.open(sys.argv.pop(1), os.O_RDWR));"
    "from app.cli import main; sys.exit(main())"
)
"""A process without a terminal gets the first one that it opens, and Ctrl-C with it."""


@asynccontextmanager
async def terminal(
    *arguments: str, **environment: str
) -> AsyncIterator[tuple[Terminal, asyncio.subprocess.Process]]:
    """The command in a terminal of its own."""
    master, slave = pty.openpty()
    here = Terminal(master)
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OPENED, os.ttyname(slave), "chat", *arguments),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        cwd=ROOT,
        env={**env, "TERM": "xterm", **environment},
    )
    os.close(slave)
    asyncio.get_running_loop().add_reader(master, here.read)
    try:
        yield here, process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)


async def test_each_model_has_its_colour_and_ctrl_c_stops_an_answer(played: Played) -> None:
    played.scripts = [
        streams(*TOGETHER),
        stalls(wrote("large", "Never")),
        streams(*TOGETHER),
    ]
    async with terminal("--url", played.url) as (shown, process):
        legend = await shown.until("auto> ")
        assert "\x1b[36msmall\x1b[39m, \x1b[33mlarge\x1b[39m" in legend
        shown.type("One?\n")
        answer = await shown.until("auto> ")
        assert "\x1b[36mHel\x1b[0m\x1b[33mlo\x1b[0m" in answer
        assert "\x1b[2m\x1b[36msmall\x1b[39m 3 + \x1b[33mlarge\x1b[39m 1 tokens" in answer
        shown.type("Two?\n")
        await shown.until("Never")
        shown.type(CTRL_C)
        assert "stopped" in await shown.until("auto> ")
        await asyncio.wait_for(played.chats[1].gone.wait(), PATIENCE)
        shown.type("Three?\n")
        await shown.until("auto> ")
        assert played.said() == ["One?", "Hello", "Two?", "Never", "Three?"]
        shown.type("\x04")
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


async def test_one_answer_in_a_terminal_without_colours_is_plain(played: Played) -> None:
    gate = asyncio.Event()
    played.scripts = [pauses(gate, wrote("small", "Hel\x1b]0;evil\x07"), streams())]
    async with terminal("--url", played.url, "Hello?", NO_COLOR="1") as (shown, process):
        assert (await shown.until("evil")).endswith("Hel]0;evil"), "at once, and disarmed"
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 130
        gate.set()


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm-256color"}, True),
    ],
)
def test_colours_are_for_those_who_want_them(environment: Mapping[str, str], wanted: bool) -> None:
    assert wants_colours(environment) is wanted


def test_a_model_keeps_its_colour() -> None:
    out = Typed()
    screen = Screen(["small", "large"], colours=True, out=out, err=out)
    for model in ("large", "unlisted", "small", "large"):
        screen.say("x", model, aside=model == "small")
    codes = re.findall(r"\x1b\[([\d;]+)mx", out.getvalue())
    assert codes == ["33", "35", "2;36", "33"]


# -------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.00"), (7.51e-6, "$0.0000075"), (1e-4, "$0.00010"), (0.0123, "$0.012"),
        (0.5, "$0.50"), (12.345, "$12.35"),
    ],
)  # fmt: skip
def test_small_amounts_are_told_too(amount: float, shown: str) -> None:
    assert usd(amount) == shown


def test_the_largest_model_is_the_dearest_then_the_biggest() -> None:
    policy, small = Card("auto", policy=True), Card("small", worth=(0.1, 1.7))
    assert largest([policy, small, Card("large", worth=(0.1, 32.0))]) == "large"
    assert largest([policy, small, Card("large", worth=(0.2, 1.0))]) == "large"
    assert largest([policy, small, Card("twin", worth=(0.1, 1.7))]) is None
    assert largest([Card("unknown")]) is None
