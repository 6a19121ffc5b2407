"""The first pass of Self-Route: an answer from passages, heard until it is known not to refuse.

Self-Route (arXiv 2407.16833, section 3.3) asks with passages first and tells the model to write
"unanswerable" where they do not hold the answer. Its client waits for nothing but the beginning: as
soon as what was heard can become no refusal any more, the answer may be relayed, what was held
included. Knows answers and nothing of documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies.reading.refusal import refuses, undecided
from router.phrases import Phrase, next_event, unseen
from router.steps import (
    Attempt,
    Delta,
    Failed,
    Finished,
    ModelName,
    Request,
    TimedOut,
)

__all__ = ["Heard", "first_pass", "may_refuse"]

GRAMMARS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""vLLM's fields that bind an answer to a form."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The beginning of an answer, which nobody has been sent; it can still be relayed."""

    attempt: Attempt
    refused: bool


def may_refuse(body: Mapping[str, Any]) -> bool:
    """Whether an answer to this body can be the one word of a refusal, and not of a set form."""
    form, tool = body.get("response_format"), body.get("tool_choice")
    text = body.get("text")
    if isinstance(text, Mapping):  # where responses say it
        form = text.get("format", form)
    free = not isinstance(form, Mapping) or form.get("type") in (None, "text")
    if isinstance(tool, Mapping):
        tool = tool.get("type")
    called = tool not in (None, "auto", "none")
    return free and not called and not any(body.get(name) for name in GRAMMARS)


def first_pass(model: ModelName, request: Request) -> Phrase[Heard | Failed]:
    """Ask `model`, on one of its backends after the other until one answers, and listen.

    It may be silent for half of the time that is left: the whole text may yet have to be read.
    """
    return (yield from unseen(model, request, _listened))


def _listened(attempt: Attempt) -> Phrase[Heard | Failed]:
    text = ""
    while True:
        match (yield from next_event(attempt)):
            case Delta(choice=0) as delta:
                text += delta.text
                if not undecided(text):
                    return Heard(attempt, refuses(text))
            case Finished():
                return Heard(attempt, refuses(text))
            case Failed() as failed:
                return failed
            case Delta() | TimedOut():
                pass
