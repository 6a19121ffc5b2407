"""What is asked of documents: how likely each task is.

From the question alone, or from the question and what a search for it found (`measures`): whether
it speaks of what the documents do not is hardly to be told from its words. Either answer is a
multinomial logistic regression over n-grams of the question, its embedding and its lexical
numbers, whose temperature makes the confidence honest. It was fitted elsewhere
(`policies.training.context`); here it is only applied. Knows asks and numbers: must not know
documents, models, or what a task is worth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from policies.composition.ask import Ask
from policies.composition.blocks import Categories, Grams, softmax, tfidf
from policies.composition.features import Features, Reading, Units
from policies.composition.lexical import Floats
from policies.composition.memory import Vectors, spelled
from policies.reading.measures import Measures
from policies.reading.wording import FRAMES, OUTLINES, WORDS, frame, ngrams, outline, tokens

__all__ = ["Head", "Phrases", "Question", "TaskJudge", "outlined", "worded"]

DENSE = "cosine"
"""A measure that only a search with vectors has."""


@dataclass(frozen=True, slots=True)
class Question:
    """Asks as a head is given them: `features`, and of each the n-grams of `words` and `frames`,
    and the tokens of its frame, `framed`.
    """

    features: Features
    words: tuple[Counter[str], ...]
    frames: tuple[Counter[str], ...]
    framed: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, which: Sequence[int]) -> Question:
        """Those of some of the asks."""
        return Question(
            self.features.rows(which),
            tuple(self.words[at] for at in which),
            tuple(self.frames[at] for at in which),
            tuple(self.framed[at] for at in which),
        )

    def beside(self, numbers: Floats) -> Question:
        """The same with `numbers` [asks, numbers] at the end of each dense row."""
        kept = self.features
        wider = Features(np.hstack([kept.dense, numbers]), kept.embedding, kept.words)
        return Question(wider, self.words, self.frames, self.framed)


def worded(asks: Sequence[Ask], features: Features) -> Question:
    """Asks whose `features` were read, and their wording."""
    said = [tokens(ask.text) for ask in asks]
    framed = tuple(tuple(frame(each)) for each in said)
    return Question(
        features,
        tuple(ngrams([token.lower() for token in each], WORDS) for each in said),
        tuple(ngrams(each, FRAMES) for each in framed),
        framed,
    )


def outlined(asked: Question, common: Collection[str]) -> list[Counter[str]]:
    """The n-grams of each ask's outline, given what is common."""
    return [ngrams(outline(each, common), OUTLINES) for each in asked.framed]


@dataclass(frozen=True, slots=True)
class Phrases:
    """A linear model over TF-IDF of n-grams of tokens, rows of length 1, sublinear counts.

    `idf` [n-grams], `weights` [n-grams, tasks].
    """

    vocabulary: Mapping[str, int]
    idf: Floats
    weights: Floats

    def outputs(self, counted: Sequence[Counter[str]]) -> Floats:
        """What it makes of each, [asks, tasks]."""
        outputs = np.zeros((len(counted), self.weights.shape[1]), np.float32)
        for at, each in enumerate(counted):
            where, values = tfidf(each, self.vocabulary, self.idf)
            outputs[at] = values @ self.weights[where]
        return outputs


@dataclass(frozen=True, slots=True)
class Head:
    """One classifier: its parts' outputs are added and divided by the temperature of `rest`.

    `common` are the tokens that `outlines` keep.
    """

    words: Phrases
    frames: Phrases
    outlines: Phrases
    common: frozenset[str]
    letters: Grams
    rest: Categories

    def probabilities(self, asked: Question) -> Floats:
        """How likely each task is, [asks, tasks], rows that sum to 1."""
        whole = self.rest.outputs(asked.features) + self.letters.outputs(asked.features)
        whole += self.words.outputs(asked.words) + self.frames.outputs(asked.frames)
        whole += self.outlines.outputs(outlined(asked, self.common))
        return softmax(whole / self.rest.temperature)


@dataclass(frozen=True, slots=True)
class TaskJudge:
    """Says how likely each task is. Safe to use from many threads.

    `fingerprint` is its artifact's. `alone` reads the question, `measured` the measures of a search
    beside it (those called `measures`, in `units`); None where none was trained.
    """

    fingerprint: str
    reading: Reading = field(compare=False, repr=False)
    alone: Head = field(compare=False, repr=False)
    measured: Head | None = field(default=None, compare=False, repr=False)
    units: Units | None = field(default=None, compare=False, repr=False)
    measures: tuple[str, ...] = ()
    vectors: Vectors = field(default_factory=lambda: Vectors(spelled), compare=False, repr=False)

    def judge(self, ask: Ask, measures: Measures | None = None) -> tuple[float, ...]:
        """The probability of each of `TASKS` for one ask; they sum to 1.

        `measures` are those of a search for it. Without them the question alone is judged, and so
        it is where the artifact was trained without, or with vectors that this search had not.
        """
        found = None
        if measures is not None and (measures.dense or DENSE not in self.measures):
            found = np.array([self.row(measures)], np.float32)
        return tuple(self.probabilities([ask], found)[0].tolist())

    def row(self, measures: Measures) -> list[float]:
        """What is read of a search's measures, in the order of `measures`."""
        return [getattr(measures, name) for name in self.measures]

    def probabilities(self, asks: Sequence[Ask], measures: Floats | None = None) -> Floats:
        """As `judge`, of many: [asks, tasks]; `measures` [asks, measures] are rows of `row`."""
        asked = self.question(asks)
        if measures is None or self.measured is None or self.units is None:
            return self.alone.probabilities(asked)
        return self.measured.probabilities(asked.beside(self.units.of(measures)))

    def question(self, asks: Sequence[Ask]) -> Question:
        """Asks as the heads read them; embeddings are remembered."""
        embed: Callable[[Sequence[str]], Floats] | None = self.reading.embed
        vectors = None if embed is None else self.vectors.of([ask.text for ask in asks], embed)
        return worded(asks, self.reading.features(asks, vectors))
