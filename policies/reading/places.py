"""Where texts stand in a request's body, whichever API it is for, and how one is put in anew.

A body is walked once, in its order: every piece of text that somebody said, and every file, with
the path that leads to it, who said it, and in which turn. What is a document among them is for
`policies.reading.found` to say. Nothing here raises on any JSON, and nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from router.steps import Surface

Path: TypeAlias = tuple[str | int, ...]
"""Keys and indices that lead from the body to a value in it."""
Role: TypeAlias = Literal["user", "system", "tool"]

TEXTS = frozenset({"text", "input_text"})
"""Types of parts that are text, of those that are not an assistant's."""
FILES = frozenset({"file", "input_file", "document"})
"""Types of parts that are files: in chat, in responses, and in messages."""
_SYSTEM = frozenset({"system", "developer"})
_TOOL = frozenset({"tool", "function"})
_RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})
"""Items of a responses input in which a tool speaks."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A string at `path`, or a part that is a file: then `text` is empty and `file` is the part.

    `turn` counts the turns of users from 0; what is said between belongs to the one before.
    """

    path: Path
    role: Role
    turn: int
    text: str = ""
    file: Mapping[str, Any] | None = None


def pieces_of(body: Mapping[str, Any], surface: Surface) -> list[Piece]:
    """Every piece of the body in its order, what assistants said left out."""
    if surface is Surface.COMPLETIONS:
        return _prompt(body.get("prompt"))
    if surface is Surface.RESPONSES:
        front = _content(body.get("instructions"), ("instructions",), "system", 0)
        said = body.get("input")
        if isinstance(said, str):
            return [*front, Piece(("input",), "user", 0, said)]
        return [*front, *_messages(said, "input")]
    front = _content(body.get("system"), ("system",), "system", 0)
    return [*front, *_messages(body.get("messages"), "messages")]


def _prompt(prompt: Any) -> list[Piece]:
    if isinstance(prompt, str):
        return [Piece(("prompt",), "user", 0, prompt)]
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        return [Piece(("prompt", 0), "user", 0, prompt[0])]
    return []


def _messages(messages: Any, name: str) -> Iterator[Piece]:
    turn, answered = 0, False
    for at, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, str):
            turn, answered = turn + answered, False
            yield Piece((name, at), "user", turn, message)
        if not isinstance(message, Mapping):
            continue
        kind, role = message.get("type"), message.get("role")
        if isinstance(kind, str) and kind in _RESULTS:
            yield from _content(message.get("output"), (name, at, "output"), "tool", turn)
            answered = True
        elif role == "user":
            found = list(_content(message.get("content"), (name, at, "content"), "user", turn))
            if answered and any(piece.role == "user" for piece in found):
                turn, answered = turn + 1, False
            yield from (Piece(p.path, p.role, turn, p.text, p.file) for p in found)
        elif isinstance(role, str) and role in _SYSTEM | _TOOL:
            speaker: Role = "system" if role in _SYSTEM else "tool"
            yield from _content(message.get("content"), (name, at, "content"), speaker, turn)
            answered = answered or speaker == "tool"
        else:
            answered = True


def _content(content: Any, path: Path, role: Role, turn: int) -> Iterator[Piece]:
    """The pieces of a content: a string, or parts. A tool's result among them is a tool's."""
    if isinstance(content, str):
        yield Piece(path, role, turn, content)
        return
    for at, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, str):
            yield Piece((*path, at), role, turn, part)
            continue
        if not isinstance(part, Mapping):
            continue
        kind = part.get("type")
        if not isinstance(kind, str):
            continue
        if kind in TEXTS and isinstance(text := part.get("text"), str):
            yield Piece((*path, at, "text"), role, turn, text)
        elif kind in FILES and role == "user":
            yield Piece((*path, at), role, turn, file=part)
        elif kind == "tool_result" and role == "user":
            yield from _content(part.get("content"), (*path, at, "content"), "tool", turn)


# ------------------------------------------------------------------------------- reading, writing


def at(body: Any, path: Path) -> Any:
    """The value at `path`, which must be there."""
    for step in path:
        body = body[step]
    return body


def put(body: Mapping[str, Any], values: Mapping[Path, Any]) -> dict[str, Any]:
    """The top-level fields that differ when these values stand at these paths.

    What is on the way is copied, everything else is the body's own. No path may lead into another.
    """
    fields: dict[str, dict[Path, Any]] = {}
    for path, value in values.items():
        fields.setdefault(str(path[0]), {})[path[1:]] = value
    return {name: _put(body.get(name), inner) for name, inner in fields.items()}


def _put(value: Any, inner: Mapping[Path, Any]) -> Any:
    if () in inner:
        return inner[()]
    steps: dict[str | int, dict[Path, Any]] = {}
    for path, new in inner.items():
        steps.setdefault(path[0], {})[path[1:]] = new
    copied = dict(value) if isinstance(value, Mapping) else list(value)
    for step, rest in steps.items():
        copied[step] = _put(copied[step], rest)  # type: ignore[index]  # a path fits its value
    return copied


def joined(texts: Iterable[str]) -> str:
    """Texts that are not blank, a blank line between each two."""
    return "\n\n".join(text for text in texts if text.strip())


def within(path: Path, others: Sequence[Path]) -> bool:
    """Whether the path leads into one of the others, or is one."""
    return any(path[: len(other)] == other for other in others)
