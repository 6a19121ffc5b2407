"""Many generations on one model, one token each in turn.

Knows the model's graph, the kept prefixes, and for each generation its sampler and its text. Must
not know HTTP, threads or clocks: `submit`, `step` and `cancel` are plain calls, and nothing happens
between them. Everything that runs gets one token per `step`, so a short request never waits for a
long one; what does not fit into `Limits` waits in line or is refused.

A `Gate` is the seam for rules that read a step's full logits and may write its token themselves:
the in-process counterpart of a vLLM logits processor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deploy.pair.graph import Graph, KVCache
from deploy.pair.prefixes import PrefixPool
from deploy.pair.sampling import Floats, Sampler, Sampling, Scores, log_softmax, rank, scores
from deploy.pair.text import Codec, Stopping, TextStream

# So that a step stays near 10 ms, and whoever waits for the loop waits no longer than that.
_READ_AT_ONCE = 128


class QueueFullError(Exception):
    """Nothing more can wait; the caller may try another backend."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many generations run at once, and how many more may wait."""

    running: int = 16
    waiting: int = 64


@dataclass(frozen=True, slots=True)
class Gate:
    """A rule that may put a token of its own in place of the model's.

    `decide` is called before each token is drawn with the tokens generated so far, the raw logits
    [vocabulary] and, if `reads_hidden`, the hidden state [hidden] they came from. None leaves the
    token to the model; an id is the next token, whatever the model says. With that id among the
    request's `stop_token_ids` the answer ends there and says so in `stop_reason`. What the rule
    must remember between tokens, it keeps in `decide`: a gate belongs to one generation.
    """

    decide: Callable[[Sequence[int], Floats, Floats | None], int | None]
    reads_hidden: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt and all that is asked of its answer.

    `logprobs` is how many of the likeliest tokens to report with each one (None: no report);
    `logprob_ids` names tokens to report instead; `prompt_logprobs` asks the same of the prompt.
    Only jobs of the same `salt` reuse each other's prefixes.
    """

    prompt: tuple[int, ...]
    stopping: Stopping
    sampling: Sampling = field(default_factory=Sampling)
    logprobs: int | None = None
    logprob_ids: tuple[int, ...] = ()
    prompt_logprobs: int | None = None
    skip_special: bool = True
    gate: Gate | None = None
    salt: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `text` is what can be shown since the last one: it may be empty.

    `scores` holds (id, natural log-probability) of this token, then of the likeliest, before any
    temperature or penalty. `finish` is set on the last token: "stop" or "length".
    """

    id: int
    text: str
    scores: Scores = ()
    finish: str | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A report on one prompt position: its scores, and the rank of the token that stands there."""

    scores: Scores
    rank: int


@dataclass(slots=True)
class Counters:
    """What has been done since the start."""

    prompt_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    generated_tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0})


class Generation:
    """One job on its way."""

    def __init__(self, job: Job, codec: Codec, vocabulary: int) -> None:
        self.job = job
        self.generated: list[int] = []
        self.prompt_scores: list[Ranked | None] = [None]
        self.cache: KVCache | None = None
        self.unfed: list[int] = []
        self.ended = False
        self.sampler = Sampler(job.sampling, job.prompt, vocabulary)
        self.text = TextStream(codec, job.prompt, job.stopping, job.skip_special)


class Engine:
    """One model, its codec, and all generations that run on it."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        """`folder` as for `Graph`, with a `tokenizer.json`. Raises ModelFilesError."""
        self.graph = Graph(folder)
        self.codec = Codec(folder / "tokenizer.json")
        self.limits = limits or Limits()
        self.counters = Counters()
        self.paused = False
        self._prefixes = PrefixPool(self.graph)
        self._running: list[Generation] = []
        self._waiting: deque[Generation] = deque()

    @property
    def running(self) -> int:
        """Generations at work."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Generations in line."""
        return len(self._waiting)

    @property
    def kept_bytes(self) -> int:
        """Memory of caches that are kept for later."""
        return self._prefixes.bytes

    def submit(self, jobs: Sequence[Job]) -> list[Generation]:
        """Take all of these jobs, or raise QueueFullError and take none."""
        free = self.limits.running + self.limits.waiting - self.running - self.waiting
        if len(jobs) > free:
            raise QueueFullError
        shape = self.graph.shape
        generations = [Generation(job, self.codec, shape.vocabulary) for job in jobs]
        self._waiting.extend(generations)
        return generations

    def cancel(self, generation: Generation) -> None:
        """Stop at once; what it holds is free for others. Does nothing after the end."""
        if not generation.ended:
            self._end(generation)

    def step(self) -> list[tuple[Generation, Token]]:
        """Give every running generation its next token; those still reading their prompt have none.

        One step reads at most `_READ_AT_ONCE` prompt tokens, the oldest request's first. While the
        engine is `paused`, none that waits is begun.
        """
        while not self.paused and self._waiting and self.running < self.limits.running:
            self._begin(self._waiting.popleft())
        made: list[tuple[Generation, Token]] = []
        budget = _READ_AT_ONCE
        for generation in tuple(self._running):
            size = max(1, min(len(generation.unfed), budget))
            budget -= size
            token = self._advance(generation, size)
            if token is not None:
                made.append((generation, token))
        return made

    def generate(self, job: Job) -> list[Token]:
        """All tokens of one job; for callers that have nothing else to do."""
        (generation,) = self.submit([job])
        tokens: list[Token] = []
        while not generation.ended:
            tokens += [token for each, token in self.step() if each is generation]
        return tokens

    def unload(self) -> None:
        """Let go of weights and caches; nothing may be running. Who waits, waits on."""
        assert not self._running, "caches are in use"
        self._prefixes.clear()
        self.graph.unload()

    def embed(self, prompt: Sequence[int]) -> Floats:
        """The mean of the prompt's final hidden states, [hidden], scaled to length 1.

        It shows that the endpoint works, no more: a tiny model that was trained on sums has little
        idea of what texts mean.
        """
        mean = self.mean_hidden(prompt)
        # Normed states never sum to zero.
        vector: Floats = mean / np.linalg.norm(mean)
        return vector

    def mean_hidden(self, prompt: Sequence[int]) -> Floats:
        """The mean of the prompt's final hidden states, [hidden]."""
        cache = self._prefixes.take(prompt, len(prompt), reuse=False)
        sums = []
        for start in range(0, len(prompt), _READ_AT_ONCE):
            cache.feed(prompt[start : start + _READ_AT_ONCE])
            sums.append(cache.hidden_states().sum(axis=0))
        mean: Floats = np.sum(sums, axis=0) / len(prompt)
        self.counters.prompt_tokens += len(prompt)
        self._prefixes.give_back(cache)
        return mean

    def _begin(self, generation: Generation) -> None:
        job = generation.job
        room = min(len(job.prompt) + job.stopping.max_tokens, self.graph.shape.context)
        # Scores of the prompt need every position's logits, so nothing of it may be skipped.
        reuse = job.prompt_logprobs is None
        generation.cache = self._prefixes.take(job.prompt, room, reuse, job.salt)
        known = len(generation.cache.tokens)
        generation.unfed = list(job.prompt[known:])
        self.counters.prompt_tokens += len(job.prompt)
        self.counters.prefix_queries += len(job.prompt) if reuse else 0
        self.counters.prefix_hits += known
        self._running.append(generation)

    def _advance(self, generation: Generation, size: int) -> Token | None:
        cache, job = generation.cache, generation.job
        assert cache is not None
        piece, generation.unfed = generation.unfed[:size], generation.unfed[size:]
        cache.feed(piece)
        if job.prompt_logprobs is not None and not generation.generated:
            self._score_prompt(generation, cache.all_logits())
        if generation.unfed:
            return None
        logits = cache.logits()
        token = self._next(generation, logits)
        generation.generated.append(token)
        generation.unfed = [token]
        self.counters.generated_tokens += 1
        return self._tell(generation, token, logits)

    def _next(self, generation: Generation, logits: Floats) -> int:
        gate, job = generation.job.gate, generation.job
        if gate is not None:
            assert generation.cache is not None
            hidden = generation.cache.hidden_states()[-1] if gate.reads_hidden else None
            forced = gate.decide(generation.generated, logits, hidden)
            if forced is not None:
                return forced
        early = len(generation.generated) < job.stopping.min_tokens
        barred = (*job.stopping.token_ids, *self.graph.shape.eos) if early else ()
        return generation.sampler.pick(logits, barred)

    def _tell(self, generation: Generation, token: int, logits: Floats) -> Token:
        job, stopping = generation.job, generation.job.stopping
        reason: int | str | None
        finish, reason = self._verdict(generation, token)
        if finish != "stop" or stopping.include_string:
            may_stop = len(generation.generated) > stopping.min_tokens
            string = generation.text.add(token, may_stop)
            if string is not None:
                finish, reason = "stop", string
        text = generation.text.take(ended=finish is not None)
        reported: Scores = ()
        if job.logprobs is not None or job.logprob_ids:
            reported = scores(log_softmax(logits), token, job.logprobs or 0, job.logprob_ids)
        if finish is not None:
            self.counters.finished[finish] += 1
            self._end(generation)
        return Token(token, text, reported, finish, reason)

    def _verdict(self, generation: Generation, token: int) -> tuple[str | None, int | None]:
        """Whether this token ends the answer, in vLLM's order; its own EOS has no stop reason."""
        stopping, length = generation.job.stopping, len(generation.generated)
        first, *others = self.graph.shape.eos
        if length >= stopping.min_tokens:
            if token == first and not stopping.ignore_eos:
                return "stop", None
            if token in stopping.token_ids or (token in others and not stopping.ignore_eos):
                return "stop", token
        full = length + len(generation.job.prompt) >= self.graph.shape.context
        return ("length", None) if full or length >= stopping.max_tokens else (None, None)

    def _score_prompt(self, generation: Generation, logits: Floats) -> None:
        prompt, done = generation.job.prompt, len(generation.prompt_scores)
        best = generation.job.prompt_logprobs or 0
        rows = log_softmax(logits)
        for row, token in zip(rows, prompt[done : done + len(rows)], strict=False):
            ranked = Ranked(scores(row, token, best), rank(row, token))
            generation.prompt_scores.append(ranked)

    def _end(self, generation: Generation) -> None:
        generation.ended = True
        if generation.cache is None:
            self._waiting.remove(generation)
            return
        self._running.remove(generation)
        self._prefixes.give_back(generation.cache)
        generation.cache = None
