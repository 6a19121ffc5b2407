"""Drawing tokens from made-up logits, and text from made-up tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.pair.sampling import Floats, Sampler, Sampling, log_softmax, rank, scores
from deploy.pair.text import Codec, Stopping, TextStream

LOGITS: Floats = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


def drawn(sampling: Sampling, prompt: tuple[int, ...] = (), draws: int = 400) -> Counter[int]:
    """How often each id is drawn from LOGITS, each time by a new generation."""
    return Counter(
        Sampler(replace(sampling, seed=seed), prompt, 4).pick(LOGITS) for seed in range(draws)
    )


def test_draws_follow_the_distribution() -> None:
    counts = drawn(Sampling(), draws=4000)
    shares = [counts[token] / 4000 for token in range(4)]
    assert shares == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


@pytest.mark.parametrize(
    ("sampling", "left"),
    [
        (Sampling(top_k=2), {0, 1}),
        (Sampling(top_p=0.5), {0}),
        (Sampling(top_p=0.51), {0, 1}),
        (Sampling(top_p=1e-9), {0}),
        (Sampling(min_p=0.29), {0, 1, 2}),
        (Sampling(min_p=1.0), {0}),
        (Sampling(temperature=0), {0}),
        (Sampling(allowed_ids=(2, 3)), {2, 3}),
        (Sampling(temperature=0, allowed_ids=(2, 3)), {2}),
        (Sampling(temperature=0, logit_bias={3: 100.0}), {3}),
        (Sampling(logit_bias={0: -100.0}), {1, 2, 3}),
    ],
)
def test_only_these_are_drawn(sampling: Sampling, left: set[int]) -> None:
    assert set(drawn(sampling)) == left


def test_barred_ids_are_not_drawn() -> None:
    assert Sampler(Sampling(temperature=0), (), 4).pick(LOGITS, barred=(0, 1)) == 2


def test_penalties_count_what_was_drawn_and_repetition_also_the_prompt() -> None:
    def greedy(sampling: Sampling, prompt: tuple[int, ...] = ()) -> list[int]:
        sampler = Sampler(replace(sampling, temperature=0), prompt, 4)
        return [sampler.pick(LOGITS) for _ in range(3)]

    assert greedy(Sampling()) == [0, 0, 0]
    assert greedy(Sampling(frequency_penalty=2.0)) == [0, 1, 2]
    assert greedy(Sampling(presence_penalty=1.0)) == [0, 1, 0]
    assert greedy(Sampling(presence_penalty=1.0), prompt=(0,)) == [0, 1, 0]
    assert greedy(Sampling(repetition_penalty=2.0), prompt=(0,))[0] == 1


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40), st.integers(0, 40))
def test_scores_are_ranked_log_probabilities(raw: list[float], best: int) -> None:
    logprobs = log_softmax(np.array(raw, dtype=np.float32))
    assert np.exp(logprobs).sum() == pytest.approx(1, abs=1e-4)
    token = len(raw) // 2
    (own, logprob), *others = scores(logprobs, token, best)
    assert own == token
    assert logprob == pytest.approx(float(logprobs[token]))
    values = [each for _, each in others]
    assert values == sorted(values, reverse=True)
    assert min(best, len(raw)) - 1 <= len(others) <= best
    assert 1 <= rank(logprobs, token) <= len(raw)


def test_a_character_is_shown_when_its_last_byte_comes(codec: Codec) -> None:
    tokens = codec.encode("a🙂é")
    stream = TextStream(codec, (), Stopping(max_tokens=99), skip_special=True)
    shown = []
    for token in tokens:
        stream.add(token, may_stop=True)
        shown.append(stream.take(ended=False))
    assert "".join(shown) == "a🙂é"
    assert "" in shown
    assert not any("\ufffd" in text for text in shown)
    reported = [codec.token_text(token, tokens[:at]) for at, token in enumerate(tokens)]
    assert reported == shown


@settings(deadline=None)  # a busy machine is no error
@given(
    cuts=st.lists(st.sampled_from("abc"), max_size=30), stop=st.text("abc", min_size=1, max_size=4)
)
def test_no_part_of_a_stop_string_is_ever_shown(cuts: list[str], stop: str, codec: Codec) -> None:
    stream = TextStream(codec, (), Stopping(max_tokens=99, strings=(stop,)), skip_special=True)
    shown, whole = "", "".join(cuts)
    for letter in cuts:
        found = stream.add(codec.encode(letter)[0], may_stop=True)
        shown += stream.take(ended=found is not None)
        assert stop not in shown
        if found:
            assert shown == whole[: whole.index(stop)]
            return
    assert stop not in whole
    assert shown + stream.take(ended=True) == whole
