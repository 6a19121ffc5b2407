"""The judge: the same thoughts from any thread, and none of them twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.composition.ask import LONGEST, Ask
from policies.composition.embedder import minilm
from policies.composition.judge import Judge, Judgement, unit_rows
from policies.composition.lexical import Floats
from policies.composition.memory import ENTRY, Memory, Vectors, digest, spelled
from policies.composition.opening import opened
from tests.policies.composition.make_artifacts import (
    DIMENSION,
    LEXICAL,
    REMOTE,
    Letters,
    local,
    prompts,
    write,
)

ASKS = [Ask(text, len(text)) for several in prompts().values() for text in several]


def counting(embed: Callable[[Sequence[str]], Floats]) -> tuple[list[str], Judge]:
    """The judge of the artifact that needs a backend, given an embedder; and what it was asked."""
    asked: list[str] = []

    def counted(texts: Sequence[str]) -> Floats:
        asked.extend(texts)
        return embed(texts)

    _, judge = opened(REMOTE, remote=True)
    return asked, replace(judge, reading=replace(judge.reading, embed=counted))


@pytest.fixture(scope="session")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that was trained with the embedder that ships."""
    return write(tmp_path_factory.mktemp("artifacts") / "local", local())


# ------------------------------------------------------------------------------------- judgements


def test_one_by_one_as_all_at_once_and_as_remembered() -> None:
    _, judge = opened(LEXICAL, remote=False)
    whole = judge.judge_all(ASKS)
    assert judge.remembered(ASKS[0]) is None
    single = [judge.judge(ask) for ask in ASKS]
    for one, other in zip(single, whole, strict=True):
        assert one.category == other.category
        assert one.quality == pytest.approx(other.quality, abs=1e-5)
    assert [judge.remembered(ask) for ask in ASKS] == single
    assert judge.judge_all([]) == []


def test_sizes_count_and_what_came_before_does_not() -> None:
    _, judge = opened(LEXICAL, remote=False)
    judge.judge(ASKS[0])
    assert judge.remembered(replace(ASKS[0], before=9000)) is not None
    for other in ({"length": 99}, {"system": 1}, {"tools": 1}, {"turns": 1}, {"text": "?"}):
        assert judge.remembered(replace(ASKS[0], **other)) is None


def test_judges_of_one_artifact_are_equal() -> None:
    assert opened(LEXICAL, remote=False)[1] == opened(LEXICAL, remote=False)[1]
    assert opened(LEXICAL, remote=False)[1] != opened(REMOTE, remote=True)[1]


def test_many_threads_think_alike() -> None:
    asked, judge = counting(Letters().embed)
    expected = judge.judge_all(ASKS)
    start = threading.Barrier(4)

    def think(turn: int) -> list[Judgement]:
        start.wait()
        return [judge.judge(ASKS[(at + turn) % len(ASKS)]) for at in range(len(ASKS))]

    with ThreadPoolExecutor(4) as pool:
        for turn, thought in enumerate(pool.map(think, range(4))):
            for at, one in enumerate(thought):
                other = expected[(at + turn) % len(ASKS)]
                assert one.quality == pytest.approx(other.quality, abs=1e-5)
    assert len(asked) == len(ASKS), "all were embedded before, once"


# ------------------------------------------------------------------------------------- embeddings


def test_a_text_is_embedded_once_whatever_is_asked_about_it() -> None:
    asked, judge = counting(Letters().embed)
    for ask in (ASKS[0], replace(ASKS[0], system=500), replace(ASKS[0], tools=3), ASKS[0]):
        judge.judge(ask)
    assert asked == [ASKS[0].text]
    judge.judge_all([ASKS[0], ASKS[1], ASKS[1]])
    assert asked == [ASKS[0].text, ASKS[1].text]


def test_a_prompt_that_only_grew_behind_what_is_read_costs_no_second_embedding(
    embedding: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedder reads 256 tokens: what follows changes the form of the prompt only."""
    _, judge = opened(embedding, remote=False)
    runs: list[str] = []
    embedder = minilm()
    original = embedder._one

    def counted(text: str) -> Floats:
        runs.append(text)
        return original(text)

    monkeypatch.setattr(embedder, "_one", counted)
    begun = "The mill stood where the valley narrowed. " * 40
    first = judge.judge(Ask(begun, len(begun)))
    longer = f"{begun} And then?"
    assert len(longer) < LONGEST
    second = judge.judge(Ask(longer, len(longer)))
    assert len(runs) == 1
    assert second.similarity == first.similarity
    assert second.quality != first.quality
    judge.judge(Ask(f"And then? {begun}", len(longer)))
    assert len(runs) == 2


def test_embeddings_made_elsewhere_are_brought_to_length_one() -> None:
    _, judge = opened(REMOTE, remote=True)
    vector = Letters().embed([ASKS[0].text])[0]
    judge.learn([ASKS[0].text], [(1000.0 * vector).tolist()])
    assert judge.vectors.known(ASKS[0].text) == pytest.approx(vector, abs=1e-6)
    assert judge.judge(ASKS[0]).similarity > 0.9
    huge = unit_rows(np.array([[1e308] * 4, [0.0] * 4]))
    assert huge.tolist() == [[0.5] * 4, [0.0] * 4]


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        ([[1.0, 2.0]], "its embeddings have 2 numbers, the artifact's 8"),
        ([[float("inf")] * DIMENSION], "its embeddings are not finite"),
    ],
)
def test_unusable_embeddings_are_refused(vectors: list[list[float]], reason: str) -> None:
    _, judge = opened(REMOTE, remote=True)
    with pytest.raises(ValueError, match=reason):
        judge.learn(["What?"], vectors)
    with pytest.raises(LookupError, match="1 prompts have no embeddings"):
        judge.think([Ask("What?", 5)])


# ----------------------------------------------------------------------------------------- memory


def test_a_memory_drops_what_was_not_used_for_longest() -> None:
    memory: Memory[str, bytes] = Memory(3 * (ENTRY + 10), len)
    for key in "abc":
        memory.put(key, bytes(10))
    assert memory.get("a") == bytes(10)
    memory.put("d", bytes(10))
    assert [key for key in "abcd" if memory.get(key) is not None] == ["a", "c", "d"]
    memory.put("d", bytes(20))
    assert memory.held <= 3 * (ENTRY + 10)
    assert len(memory) == 2


def test_a_memory_is_as_large_as_it_says() -> None:
    vectors = Vectors(spelled, most=1 << 16)
    rows = np.zeros((500, 384), np.float32)
    vectors.learn([str(n) for n in range(500)], rows)
    assert vectors.known("0") is None
    assert vectors.known("499") is not None
    held = sum(vectors.known(str(n)) is not None for n in range(500))
    assert held == (1 << 16) // (384 * 4 + ENTRY)


def test_what_is_larger_than_a_memory_is_not_kept() -> None:
    memory: Memory[str, bytes] = Memory(100, len)
    memory.put("a", bytes(1000))
    assert len(memory) == memory.held == 0


def test_half_a_character_is_a_text_too() -> None:
    assert digest(spelled("\ud800")) != digest(spelled("\ud801"))
