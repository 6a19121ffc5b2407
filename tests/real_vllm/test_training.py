"""The stages of learning a gate on real vLLM: the same code finds what it finds on the pair."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from deploy.pair.problems import TUNE_SEEDS, problems
from policies.training.token_gate.collect import Address, Asking, Found, collect
from policies.training.token_gate.dataset import Examples, Split, build
from policies.training.token_gate.prompts import Prompt
from tests.real_vllm.servers import Server

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

PROMPTS = [
    Prompt(f"p{at}", ({"role": "user", "content": each.prompt},), each.answer)
    for at, each in enumerate(problems(TUNE_SEEDS.start, 8))
]


def learned(small: Address, large: Address, work: Path, traces: Path) -> tuple[Found, Examples]:
    asking = Asking(small, large, max_tokens=320)
    found = asyncio.run(collect(asking, PROMPTS, work, traces))
    split = Split(0, 0.2)
    return found, build(found.answers, found.traces.rows, found.verdicts.rows, traces, split)


def test_vllm_and_the_pair_give_the_same_examples(
    small: Server, large: Server, pair: Server, gate: dict[str, str], pair_traces: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    traces = Path(gate["TANDEM_GATE_TRACES"])
    ours, real = learned(Address(small.url), Address(large.url), tmp_path / "vllm", traces)
    both = Address(pair.url, "small"), Address(pair.url, "large")
    theirs, embedded = learned(*both, tmp_path / "pair", pair_traces)
    assert len(ours.answers) >= len(PROMPTS) - 1
    assert [each.answer for each in ours.answers] == [each.answer for each in theirs.answers]
    assert real.hidden is not None
    assert embedded.hidden is not None
    # Two engines round differently: what they see is alike, and so is all but a tie.
    assert np.allclose(real.logits, embedded.logits, atol=0.05)
    assert np.allclose(real.hidden, embedded.hidden, atol=0.05)
    assert np.mean(real.predicted != embedded.predicted) < 0.01
    assert np.mean(real.divergent != embedded.divergent) < 0.01
    assert real.divergent.any()
