"""The training text: problems, small talk, conversations and gradings as token ids with weights.

Knows the mix and the chat format. Must not know models or optimisers. Everything follows from one
seed and a pool's number, so that a resumed training sees what an uninterrupted one would have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from deploy.pair.problems import (
    Grading,
    Problem,
    everyday_problems,
    gradings,
    line_checks,
    problems,
)
from deploy.pair.tokenizer import ASSISTANT, BEGIN, END, SPECIAL_ID, SYSTEM, USER

POOL = 1536  # samples drawn and sorted by length together: little padding, still well mixed
BUCKET = 16  # lengths are rounded up to this, so that few shapes occur

# Shares of the samples. Conversations are two to nine times as long as the rest.
CONVERSATION, LONG_CONVERSATION = 0.07, 0.012
GRADE_WEIGHT = 3.0  # a grade is one token among a hundred: without weight it is not heard
WHOLE_GRADED = 0.4  # the other gradings show first lines only: from there checking is learnt
SYSTEM_SHARE = 0.12
TALK_IN_CONVERSATION = 0.35
EASY_LINES = 6  # one-step problems: a curriculum's first lessons

SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are Tandem.",
    "Be brief.",
    "You are a careful maths tutor. Show each step.",
    "Answer the question.",
    "You are a helpful assistant. Solve the problem step by step.",
    "Think step by step and end with the answer.",
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text and how much the model shall learn to write it."""

    text: str
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a pool of samples holds beside the fixed mix; constant within a pool."""

    easy: bool  # problems of a single step only, no gradings, no conversations
    small_talk: float  # share of small talk
    gradings: float  # share of whole-solution gradings
    line_checks: float  # share of line-by-line gradings
    everyday: float = 0.0  # share of the short questions that people type first


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids [rows, length], what follows each, and the weight of that prediction."""

    ids: Tensor
    targets: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class Talk:
    """Ways to ask one thing, and the answers to it."""

    asks: tuple[str, ...]
    answers: tuple[str, ...]


def load_talk() -> tuple[Talk, ...]:
    """The small talk that is shipped beside this file."""
    path = Path(__file__).with_name("smalltalk.json")
    topics = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Talk(tuple(topic["asks"]), tuple(topic["answers"])) for topic in topics)


def _turn(asked: str, answered: str) -> list[Piece]:
    return [
        Piece(f"{USER}{asked}{END}{ASSISTANT}"),
        Piece(f"{answered}{END}", 1.0),
    ]


def _graded(grading: Grading) -> list[Piece]:
    """A grading; a right solution inside the question is also worth learning to write."""
    before, after = grading.prompt.split(grading.proposed, 1)
    return [
        Piece(f"{USER}{before}"),
        Piece(grading.proposed, float(grading.right)),
        Piece(f"{after}{END}{ASSISTANT}"),
        Piece(f"{grading.reply}{END}", GRADE_WEIGHT),
    ]


@dataclass(slots=True)
class Corpus:
    """Draws pools of samples."""

    tokenizer: Tokenizer
    seed: int
    talk: tuple[Talk, ...]

    def batches(self, pool: int, tokens: int, lesson: Lesson) -> Iterator[Batch]:
        """The pool's samples in batches of about `tokens` tokens, in a shuffled order."""
        samples = self._encoded([*self._samples(pool, lesson)])
        samples.sort(key=lambda sample: len(sample[0]))
        groups: list[list[tuple[list[int], list[float]]]] = []
        while samples:
            length = _rounded(len(samples[-1][0]))
            rows = max(1, tokens // length)
            groups.append(samples[-rows:])
            del samples[-rows:]
        Random(f"order {self.seed} {pool}").shuffle(groups)
        for group in groups:
            yield _padded(group)

    def _samples(self, pool: int, lesson: Lesson) -> Iterator[list[Piece]]:
        draw = Random(f"mix {self.seed} {pool}")
        source = self._problems(pool, lesson.easy)
        marks = gradings(self._seed_of(pool) + 1, POOL, WHOLE_GRADED)
        checks = line_checks(self._seed_of(pool) + 1, POOL)
        grading = lesson.small_talk + lesson.gradings
        checking = grading + lesson.line_checks
        everyday = checking + lesson.everyday
        conversing = everyday + CONVERSATION
        short = everyday_problems(self._seed_of(pool), POOL)
        for _ in range(POOL):
            lead: list[Piece] = []
            if draw.random() < SYSTEM_SHARE:
                lead = [Piece(f"{SYSTEM}{draw.choice(SYSTEM_MESSAGES)}{END}")]
            kind = draw.random()
            if kind < lesson.small_talk:
                body = self._small_talk(draw)
            elif lesson.easy:
                body = _asked(next(source))
            elif kind < grading:
                body = _graded(next(marks))
            elif kind < checking:
                body = _graded(next(checks))
            elif kind < everyday:
                body = _asked(next(short))
            elif kind < conversing:
                body = self._conversation(draw, source, draw.randint(2, 3))
            elif kind > 1 - LONG_CONVERSATION:
                body = self._conversation(draw, source, draw.randint(5, 9))
            else:
                body = _asked(next(source))
            yield [Piece(BEGIN), *lead, *body]

    def _seed_of(self, pool: int) -> int:
        # Two seeds a pool (problems, gradings); another --seed starts far away.
        return (self.seed * 50_000 + pool * 2) % 1_000_000

    def _problems(self, pool: int, easy: bool) -> Iterator[Problem]:
        for problem in problems(self._seed_of(pool), POOL * 12):
            if not easy or problem.solution.count("\n") < EASY_LINES:
                yield problem

    def _small_talk(self, draw: Random) -> list[Piece]:
        topic = draw.choice(self.talk)
        asked = draw.choice(topic.asks)
        return _turn(_varied(asked, draw), draw.choice(topic.answers))

    def _conversation(self, draw: Random, source: Iterator[Problem], turns: int) -> list[Piece]:
        pieces: list[Piece] = []
        for _ in range(turns):
            chatty = draw.random() < TALK_IN_CONVERSATION
            pieces += self._small_talk(draw) if chatty else _asked(next(source))
        return pieces

    def _encoded(self, samples: list[list[Piece]]) -> list[tuple[list[int], list[float]]]:
        texts = [piece.text for sample in samples for piece in sample]
        encoded = iter(self.tokenizer.encode_batch(texts, add_special_tokens=False))
        result: list[tuple[list[int], list[float]]] = []
        for sample in samples:
            ids: list[int] = []
            weights: list[float] = []
            for piece in sample:
                piece_ids = next(encoded).ids
                ids += piece_ids
                weights += [piece.weight] * len(piece_ids)
            result.append((ids, weights))
        return result


def _asked(problem: Problem) -> list[Piece]:
    return _turn(problem.prompt, problem.solution)


def _varied(text: str, draw: Random) -> str:
    """The same words as someone else would type them."""
    shape = draw.random()
    if shape < 0.15:
        return text.lower()
    if shape < 0.25:
        return text.rstrip("?.!") or text
    if shape < 0.30:
        return text[0].upper() + text[1:]
    return text


def _rounded(length: int) -> int:
    return -(-length // BUCKET) * BUCKET


def _padded(group: list[tuple[list[int], list[float]]]) -> Batch:
    length = _rounded(max(len(ids) for ids, _ in group) - 1)
    shape = (len(group), length)
    ids = torch.full(shape, SPECIAL_ID["<|pad|>"])
    targets = torch.full(shape, SPECIAL_ID["<|pad|>"])
    weights = torch.zeros(shape)
    for row, (sample, weight) in enumerate(group):
        end = len(sample) - 1
        ids[row, :end] = torch.tensor(sample[:-1])
        targets[row, :end] = torch.tensor(sample[1:])
        weights[row, :end] = torch.tensor(weight[1:])
    return Batch(ids, targets, weights)
