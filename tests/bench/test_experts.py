"""The benchmark of `experts`: prompts are new, decisions whole, and targets can be missed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.bench import experts as bench
from app.bench.embedder import quantile
from app.bench.experts import TOKENS, WORDS, Writer, decide, made_up
from app.cli import main
from policies import TABLE
from policies.composition.embedder import SHIPPED, LocalEmbedder
from router.fleet import Fleet
from router.references import build_policy
from tests.policies.composition.make_artifacts import LEXICAL, REMOTE


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command limits them for its process, which is the tests' here."""
    for name in bench.ONE_THREAD:
        monkeypatch.setenv(name, "1")


def test_prompts_are_as_long_as_they_say_and_no_two_alike() -> None:
    writer = Writer(0)
    texts = [writer.prompt(WORDS) for _ in range(50)]
    assert {len(text.split()) for text in texts} == {WORDS}
    assert len(set(texts)) == 50
    asked: Any = writer.request("embedding").body
    text = asked["messages"][0]["content"]
    assert len(LocalEmbedder(SHIPPED).tokens(text)) == TOKENS


def test_rows_can_be_learned_from() -> None:
    rows = made_up(200)
    assert len(rows) == 200
    assert rows.tasks is not None
    assert len(set(rows.tasks)) == 8
    assert len(set(rows.prompts)) == 200


def test_decisions_are_made_to_their_end_and_remembered() -> None:
    policy, _ = build_policy({"use": "experts", "artifact": str(LEXICAL)}, TABLE)
    assert policy is not None
    requests = [Writer(0).request("lexical")] * 3
    assert len(decide(policy, requests)) == 3
    steps = policy.route(requests[0], Fleet({}))
    assert type(next(steps)).__name__ == "Note", "it is remembered: nothing is computed"


@pytest.mark.parametrize("most", [1e-6, 1e6])
def test_the_command_judges_by_its_targets(
    most: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench.MOST, "lexical", (most, None))
    asked = ["bench", "experts", "--artifact", str(LEXICAL), "--prompts", "5", "--json"]
    status = main([*asked, "--repetitions", "1"])
    report = json.loads(capsys.readouterr().out)
    assert status == (0 if most > 1 else 1)
    figures = {row["name"]: row for row in report["figures"]}
    assert figures["lexical, 100 words: p50"]["met"] is (most > 1)
    assert figures["lexical, remembered: p50"]["value"] > 0
    assert "lexical, event loop deciding: late p99" in figures


@pytest.mark.parametrize(
    ("artifact", "reason"),
    [(str(REMOTE), "a backend makes its embeddings"), ("nowhere", "nowhere/experts.json: No such")],
)
def test_what_cannot_be_measured_is_said(
    artifact: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "experts", "--artifact", artifact]) == 2
    assert reason in capsys.readouterr().err


def test_quantiles_are_values_that_were_seen() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3.0
