"""The embedder's benchmark: it asks what it says, and misses what it must miss."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from app.bench import embedder as bench
from app.bench.embedder import LENGTHS, MOST, Timings, measure, prompts
from app.cli import main
from policies.composition.embedder import SHIPPED, Floats, LocalEmbedder, Progress


@pytest.mark.parametrize("length", LENGTHS)
def test_a_prompt_has_exactly_its_tokens(length: int) -> None:
    embedder = LocalEmbedder(SHIPPED)
    texts = prompts(length, 3, 0)
    assert [len(embedder.tokens(text)) for text in texts] == [length] * 3
    assert len(set(texts)) == 3
    assert texts == prompts(length, 3, 0) != prompts(length, 3, 1)


class Listening:
    """An embedder that counts what it is asked."""

    name, dimension, fingerprint = "listening", 1, "0" * 16

    def __init__(self) -> None:
        self.asked: list[int] = []

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        self.asked.append(len(texts))
        return np.ones((len(texts), 1), np.float32)


def test_texts_are_timed_one_by_one() -> None:
    listening = Listening()
    steps: list[None] = []
    found = measure(listening, 2, 5, lambda: steps.append(None))
    assert listening.asked == [2, 1, 1, 1, 1, 1] * 2 * len(LENGTHS)
    assert [[len(wall) for wall in each.wall] for each in found.values()] == [[5, 5]] * len(LENGTHS)
    assert len(steps) == 2 * len(LENGTHS)


def test_percentiles_are_of_the_repetition_and_targets_can_be_missed() -> None:
    slow, quick = (Timings([[by * at for at in range(1, 101)]], [1.0]) for by in (1.0, 0.1))
    p50, p99, cpu = bench._latency(128, slow)
    assert (p50.value, p99.value, cpu.value) == (50.0, 99.0, 1.0)
    assert (p50.met, p99.met, cpu.met) == (False, False, None)
    assert [figure.met for figure in bench._latency(128, quick)] == [True, True, None]
    assert [figure.target for figure in bench._latency(64, slow)] == [None, None, None]


@pytest.mark.slow
def test_the_command_prints_what_programs_read(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["bench", "embedder", "--repetitions", "1", "--texts", "2", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == (0 if report["met"] else 1)
    targets = {row["name"]: row["target"] for row in report["figures"] if row["target"]}
    median, last = MOST[128]
    assert targets == {
        "128 tokens, one thread: p50": f"<= {median:g}",
        "128 tokens, one thread: p99": f"<= {last:g}",
    }
    assert any("texts/s" in row["unit"] for row in report["figures"])
