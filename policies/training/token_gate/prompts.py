"""The prompts file: one JSON object a line, with a question and perhaps its exact answer.

    {"prompt": "What is 3 + 4?", "answer": "7"}
    {"messages": [{"role": "user", "content": "Name a colour."}]}

Knows the file's form. Must not know what is asked with it. A prompt's `id` follows from its
content, so that a longer file, or one in another order, finds what was asked before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.training.token_gate.errors import TrainingError

_ID_LENGTH = 16
"""Hexadecimal digits: among a million prompts two are alike with a chance of 3 in 100 million."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question; `answer` is its exact result where one is known."""

    id: str
    messages: tuple[dict[str, Any], ...]
    answer: str | None = None

    @property
    def question(self) -> str:
        """The conversation as text, for a judge."""
        return "\n\n".join(_text(message.get("content")) for message in self.messages)


def read_prompts(file: Path, most: int | None = None) -> list[Prompt]:
    """The first `most` prompts of the file, each once. Raises TrainingError with the line."""
    try:
        with file.open(encoding="utf-8") as lines:
            found: dict[str, Prompt] = {}
            for prompt in _prompts(file, lines):
                if most is not None and len(found) == most:
                    break
                found[prompt.id] = prompt
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"cannot read {file}: {error}") from error
    if not found:
        raise TrainingError(f"{file} holds no prompts")
    return [*found.values()]


def _prompts(file: Path, lines: Iterator[str]) -> Iterator[Prompt]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _prompt(json.loads(line))
            except (ValueError, TypeError) as error:
                raise TrainingError(f"{file}, line {number}: {error}") from error


def _prompt(row: Any) -> Prompt:
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise ValueError('each line is an object with either "prompt" or "messages"')
    messages = row.get("messages") or [{"role": "user", "content": row.get("prompt")}]
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise ValueError('"messages" is a list of objects, with at least one in it')
    if "prompt" in row and not (isinstance(row["prompt"], str) and row["prompt"]):
        raise ValueError('"prompt" is a text, and not empty')
    answer = row.get("answer")
    if answer is not None and not isinstance(answer, str | int | float):
        raise ValueError('"answer" is a text or a number')
    content = json.dumps([messages, answer], sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()[:_ID_LENGTH]
    return Prompt(digest, tuple(messages), None if answer is None else str(answer))


def _text(content: Any) -> str:
    """A message's text; of parts, those that are text."""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    return str(content or "")
