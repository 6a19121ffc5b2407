"""Questions: what only a model's backend knows, and policies may ask beside answers.

Its chat template, its tokenizer and its parsers; what an embedding model makes of texts, and what a
reward model thinks of them. Part of the vocabulary, and values only: read `router.steps` first,
where all of them are steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from router.request import Request

Vectors: TypeAlias = tuple[tuple[float, ...], ...]
"""Embeddings, one a text."""

Scores: TypeAlias = tuple[float, ...]
"""What a reward model says, one finite number a text; more is better."""

ScoreApi: TypeAlias = Literal["score", "classify", "pooling"]
"""The ways in which servers tell scores, as vLLM calls them."""


@dataclass(frozen=True, slots=True)
class Render:
    """Apply `model`'s chat template. Reply: the prompt's token ids, or `Failed`."""

    model: str
    request: Request


@dataclass(frozen=True, slots=True)
class Spell:
    """The text of these tokens, as `model`'s backend spells them. Reply: a string, or `Failed`.

    For seams between two models only, where a character may be split: elsewhere the backend's own
    text is right, and free.
    """

    model: str
    request: Request
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Embed:
    """The embeddings of these texts, made by `model`. Reply: `Vectors`, or `Failed`.

    It may take `share` of the time that is left: somebody has yet to answer.
    """

    model: str
    request: Request
    texts: tuple[str, ...]
    share: float = 0.25


@dataclass(frozen=True, slots=True)
class Scorer:
    """How a served reward model is asked, and which of its numbers is the score.

    `score` sends the question and all texts in one call, and the server makes a pair of each;
    `classify` and `pooling` send a chat of two messages per text. Of several numbers the score is
    that of `label` (from the end if negative), at the last token that has any. `logits` are what
    the server knows before it squashes them to probabilities. Unless texts are `whole`, they are
    beginnings of answers, and a chat template puts nothing after them.
    """

    api: ScoreApi = "score"
    label: int = -1
    logits: bool = False
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Score:
    """What `model` thinks of these answers to what was `asked`. Reply: `Scores`, or `Failed`.

    Texts may be whole answers or beginnings of them, and are scored side by side. Each call is an
    attempt that is counted; the client sees none of them. It may take `share` of the time that is
    left: somebody has yet to answer.
    """

    model: str
    request: Request
    asked: str
    texts: tuple[str, ...]
    by: Scorer = Scorer()
    share: float = 0.25


@dataclass(frozen=True, slots=True)
class Parse:
    """Read a whole chat answer as `model`'s backend reads its own. Reply: `Parsed`, or `Failed`.

    Tool calls and reasoning are marked in the text as each model was taught to; only its backend
    knows how. `tokens` are the answer's, `prompt` those before it, `reason` why it ended.
    """

    model: str
    request: Request
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """A message with its tool calls and its reasoning apart, and why it ended."""

    message: Mapping[str, Any]
    reason: str
