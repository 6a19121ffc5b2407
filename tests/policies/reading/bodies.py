"""Request bodies with documents in them, as clients send them."""

from __future__ import annotations

import base64
from typing import Any

from policies.reading.found import Found, find
from router.steps import Surface

LEAST = 1000
STORY = "\n\n".join(
    f"Chapter {number}. The ferry leaves the island at {number % 12} in the morning. Nobody "
    "aboard speaks of the lighthouse, whose lamp has been dark since the storm."
    for number in range(20)
)
"""A document of some 3,000 characters that asks nothing."""
ASK = "When does the ferry leave?"


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    """A conversation of a user and an assistant in turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": said} for n, said in enumerate(contents)]
    return {"model": "auto", "messages": messages, **fields}


def text(said: str, **fields: Any) -> dict[str, Any]:
    """A part of text."""
    return {"type": "text", "text": said, **fields}


def data_url(said: str | bytes, kind: str = "text/plain") -> str:
    """A file as OpenAI's clients send it."""
    raw = said.encode() if isinstance(said, str) else said
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def file(said: str | bytes, kind: str = "text/plain", name: str = "story.txt") -> dict[str, Any]:
    """A file part of a chat."""
    return {"type": "file", "file": {"filename": name, "file_data": data_url(said, kind)}}


def found(body: dict[str, Any], surface: Surface = Surface.CHAT, least: int = LEAST) -> Found:
    """What is found, which must be something."""
    read = find(body, surface, least)
    assert isinstance(read, Found), read
    return read


def refused(body: dict[str, Any], surface: Surface = Surface.CHAT) -> str:
    """Why nothing is found."""
    why = find(body, surface, LEAST)
    assert isinstance(why, str), why
    return why
