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
from dataclasses import dataclass
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
_NOISE = re.compile(
    rf"<({'|'.join(map(re.escape, NOISE))})(?:\s[^>]*)?>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE
)
_MOST_CLEANED = 65_536
"""Characters of one turn that are looked through for noise; a pasted book is not."""


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

    The last is the present one. Turns of a user in which only a tool spoke are none.
    """
    turns = list(said_in(body))
    system = sum(len(turn.text) for turn in turns if turn.role in ("system", "developer"))
    spoken = [turn for turn in turns if turn.role in ("user", "assistant")]
    tools = body.get("tools")
    offered = len(tools) if isinstance(tools, Sequence) else 0
    ends = [at for at, turn in enumerate(spoken) if turn.role == "user" and _cleaned(turn.text)]
    return [_ask(spoken[: end + 1], source, system, offered) for end in ends[-most:]]


def _ask(spoken: Sequence[Said], source: Source, system: int, tools: int) -> Ask:
    if source == "ask":
        text = _cleaned(spoken[-1].text)
    else:
        heard = [turn for turn in spoken if source == "all" or turn.role == "user"]
        cleaned = [text for turn in heard if (text := _cleaned(turn.text))]
        text = "\n".join(cleaned[::-1])  # the latest first: what is cut off is the oldest
    before = system + sum(len(turn.text) for turn in spoken[:-1])
    return Ask(text[:LONGEST], len(text), system, tools, len(spoken) - 1, before)


def _cleaned(text: str) -> str:
    """Without the blocks of harnesses."""
    if "<" in text:
        text = _NOISE.sub("", text[:_MOST_CLEANED]) + text[_MOST_CLEANED:]
    return text.strip()


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
