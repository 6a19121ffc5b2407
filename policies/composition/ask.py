"""The ask: the text of a request that a router reads, apart from what tools and harnesses add.

Agents wrap what a person typed in reminders, file listings and tool results, and send it all as
messages of a user. A router that reads those learns the harness. So the ask is the last turn in
which a person said something, without the blocks that harnesses mark with tags; the rest of the
request counts by its size only. Knows the four bodies that carry text (chat, completions,
responses, messages) and nothing of models or features.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, TypeAlias

Source: TypeAlias = Literal["ask", "user", "all"]
"""What is read: the last turn of a person, all turns of the person, or everything that was said."""

LONGEST = 4096
"""Characters that are read: an embedder of 256 tokens sees no more of any language."""
NOISE = (
    "system-reminder", "system_reminder", "environment_details", "environment_context",
    "local-command-stdout", "local-command-stderr", "command-name", "command-message",
    "command-args", "tool_result", "attached_files", "open_files", "workspace_info",
    "project_layout", "additional_data", "user_info", "file_contents",
)  # fmt: skip
"""Tags in which today's coding agents and chat front-ends wrap what no person typed."""
_OPENED = re.compile(rf"<({'|'.join(map(re.escape, NOISE))})(?:\s[^<>]*)?>", re.IGNORECASE)
_AHEAD = 2 * LONGEST
"""Characters in which the next block is looked for: what follows is not read anyway."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is routed on. `text` is at most `LONGEST` characters, `length` what it was before.

    `system` counts the characters of instructions before it, `tools` the functions on offer,
    `turns` what was said before by either side, 0 for a first question, and `before` the characters
    of all that stood before this turn: what a model that takes over must read anew.
    """

    text: str
    length: int = 0
    system: int = 0
    tools: int = 0
    turns: int = 0
    before: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """One turn: who spoke, and the text of it."""

    role: str
    text: str


def ask_of(body: Mapping[str, Any], source: Source = "ask") -> Ask:
    """The ask in a request's body. Its text is empty where nobody said anything."""
    found = asks_of(body, source)
    return found[-1] if found else Ask("")


def asks_of(body: Mapping[str, Any], source: Source = "ask", most: int = 1) -> list[Ask]:
    """The asks of the last `most` turns of a person, in order: each as `ask_of` saw it then.

    The last is the present one. Turns of a user in which only a tool spoke are none. Runs on the
    event loop: a turn that is not read is not looked through either.
    """
    turns = list(said_in(body))
    system = sum(len(turn.text) for turn in turns if turn.role in ("system", "developer"))
    spoken = [turn for turn in turns if turn.role in ("user", "assistant")]
    tools = body.get("tools")
    offered = len(tools) if isinstance(tools, list | tuple) else 0
    heard: dict[int, str] = {}
    ends: list[int] = []
    for at in reversed(range(len(spoken))):
        if source == "ask" and len(ends) == most:
            break
        asked = spoken[at].role == "user"
        if (asked or source == "all") and (text := cleaned(spoken[at].text)):
            heard[at] = text  # the latest first: what is cut off is the oldest
            if asked and len(ends) < most:
                ends.append(at)
    before = [*accumulate((len(turn.text) for turn in spoken), initial=system)]
    asks = []
    for end in reversed(ends):
        texts = [heard[end]] if source == "ask" else [t for at, t in heard.items() if at <= end]
        text, length = _joined(texts)
        asks.append(Ask(text, length, system, offered, end, before[end]))
    return asks


def told_apart(asks: Sequence[Ask], ask: str | None) -> list[Ask]:
    """`asks` whose last is only `ask`, where that is known; what else its turn held came before."""
    if ask is None or not asks:
        return list(asks)
    last = asks[-1]
    beside = max(0, last.length - len(ask))
    known = replace(last, text=ask[:LONGEST], length=len(ask), before=last.before + beside)
    return [*asks[:-1], known]


def _joined(texts: Sequence[str]) -> tuple[str, int]:
    """Line by line as far as it is read, and how long the whole would be."""
    few, size = [], 0
    for text in texts:
        if size < LONGEST:
            few.append(text)
        size += len(text) + 1
    return "\n".join(few)[:LONGEST], size - 1


def cleaned(text: str) -> str:
    """Without the blocks of harnesses, as far as it is read; one not closed goes on to the end."""
    kept, size, at = [], 0, 0
    text = text.strip()
    while size < LONGEST and (opened := _OPENED.search(text, at, at + _AHEAD)):
        kept.append(text[at : opened.start()])
        size += opened.start() - at
        closed = f"</{opened[1]}>"
        end = text.find(closed, opened.end())
        at = len(text) if end < 0 else end + len(closed)
    return "".join([*kept, text[at:]]).strip()


# --------------------------------------------------------------------------------- the bodies


def said_in(body: Mapping[str, Any]) -> Iterator[Said]:
    """Every turn of a body, whatever API it is for; what is no text is passed over."""
    for name, role in (("system", "system"), ("instructions", "system")):
        if text := _text(body.get(name)):
            yield Said(role, text)
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, str):
        yield Said("user", messages)
    elif isinstance(messages, Sequence):
        yield from (said for message in messages if (said := _turn(message)))
    elif text := _prompt(body.get("prompt")):
        yield Said("user", text)


def _turn(message: Any) -> Said | None:
    if isinstance(message, str):
        return Said("user", message)
    if not isinstance(message, Mapping):
        return None
    text = _text(message.get("content"))
    return Said(str(message.get("role", "")), text) if text else None


def _text(content: Any) -> str:
    """The text of a content: a string, or parts of which some are text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts = (part for part in content if isinstance(part, Mapping))
    texts = (part.get("text") for part in parts if part.get("type") in _TEXTS)
    return "\n".join(text for text in texts if isinstance(text, str))


_TEXTS = ("text", "input_text", "output_text")
"""The types of parts that are text in chat, responses and messages; a tool's result is none."""


def _prompt(prompt: Any) -> str:
    """A completion's prompt: the first, where there are several; none, where it is token ids."""
    if isinstance(prompt, Sequence) and not isinstance(prompt, str) and prompt:
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else ""
