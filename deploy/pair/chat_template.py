"""Messages to prompt text, by the model's own Jinja template.

Knows the template's surroundings as transformers sets them up. Must not know tokens or HTTP. The
template is the model's file, never a client's; it still runs in Jinja's sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Marks where an unfinished last message ends; private-use characters, so no prompt contains it.
_OPEN_END = "\ue0f0\ue0f1\ue0f0"


class ChatTemplateError(ValueError):
    """These messages cannot be rendered; the text is fit for the client."""


class ChatTemplate:
    """The `chat_template.jinja` of a model folder, with its special tokens."""

    def __init__(self, folder: Path) -> None:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _to_json
        self._template = environment.from_string(source)
        self._special = {
            name: _content(value) for name, value in settings.items() if name.endswith("_token")
        }

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        open_answer: bool = True,
        continue_last: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text. Raises ChatTemplateError.

        `open_answer` lets the model speak next; `continue_last` leaves the last message unfinished.
        """
        if not messages:
            raise ChatTemplateError(
                "Cannot apply chat template to an empty conversation. Provide at least one message."
            )
        turns = [_turn(message) for message in messages]
        if continue_last:
            turns[-1]["content"] = _opened(turns[-1]["content"])
        ours = {"messages": turns, "tools": tools, "add_generation_prompt": open_answer}
        try:
            text = self._template.render({**self._special, **(extra or {}), **ours})
        except (TemplateError, TypeError) as error:
            raise ChatTemplateError(f"The chat template refused the messages: {error}") from error
        if continue_last and _OPEN_END not in text:
            raise ChatTemplateError("continue_final_message: the chat template drops that message.")
        return text.rpartition(_OPEN_END)[0] if continue_last else text


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as the template takes it: text content, and tool calls with parsed arguments."""
    content = message.get("content")
    match content:
        case None | str():
            pass
        case list() as parts:
            for part in parts:
                _check_part(part)
        case _:
            raise ChatTemplateError("`content` must be a string, a list of text parts, or null.")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ChatTemplateError("`tool_calls` must be a list.")
    called = {"tool_calls": [_call(call) for call in calls]} if calls else {}
    return {**message, "content": content, **called}


def _check_part(part: object) -> None:
    match part:
        case str() | {"type": "text" | "input_text" | "output_text", "text": str()}:
            return
        case {"type": kind}:
            raise ChatTemplateError(f"The embedded pair takes text only, not {kind!r} parts.")
        case _:
            raise ChatTemplateError('A content part must be {"type": "text", "text": "..."}.')


def _call(call: Any) -> dict[str, Any]:
    """The arguments as an object and before the name: the order in which vLLM hands them on."""
    match call:
        case {"function": {"name": str() as name, "arguments": str() as arguments}}:
            try:
                parsed = json.loads(arguments or "{}")
            except json.JSONDecodeError:
                raise ChatTemplateError("A tool call's `arguments` must be JSON.") from None
            return {**call, "function": {"arguments": parsed, "name": name}}
        case _:
            raise ChatTemplateError("A tool call needs a `function` with `name` and `arguments`.")


def _opened(content: Any) -> Any:
    """The last message's content with the mark at its end."""
    match content:
        case str():
            return content + _OPEN_END
        case [*before, {"text": str() as text} as last]:
            return [*before, {**last, "text": text + _OPEN_END}]
        case _:
            raise ChatTemplateError("continue_final_message: the last message has no text.")


def _content(value: object) -> object:
    """A special token is written as a string, or as an object with its `content`."""
    return value.get("content") if isinstance(value, dict) else value


def _to_json(value: object) -> str:
    """Unlike Jinja's own: text as it is, nothing made safe for HTML."""
    return json.dumps(value, ensure_ascii=False)
