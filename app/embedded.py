"""The embedded pair: two tiny models in processes of their own, for when no config names any.

It starts `python -m deploy.pair` once per model on a free loopback port and gives back the config
that a user with two real servers would have written. The children watch a pipe that this process
holds and end with it, even if it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from policies.gate.resources import ARTIFACTS_VARIABLE

if TYPE_CHECKING:
    from router.config import Document

MODELS = Path(__file__).parent.parent / "deploy" / "pair" / "models"
GATES = "gate"
"""The folder beside the models that holds the learned gates: these two."""
EXPERTS = "experts"
"""The one that holds the learned request router."""
STAGED = "staged.json"
"""What majorities among the small model's samples are worth, beside the models."""
HIDDEN, NO_HIDDEN = "hidden", "no-hidden"
SIZES = ("small", "large")
READY = b"listening on "
PATIENCE = 60.0
"""Seconds for a model server to come up; 2 are usual, a cold disk is slower."""

DOCUMENT = """\
# The embedded pair: two tiny models that ship with Tandem. Prices are for show: a small and a
# large open model's, so that costs and savings have something to count.
models:
  small:
    backends: [{small}]
    params_b: {params_small}
    price: {{input: 0.03, output: 0.10}}
  large:
    backends: [{large}]
    params_b: {params_large}
    price: {{input: 0.30, output: 1.20}}
policies:
  auto: {{use: token_gate, small: small, large: large, artifact: {gate}}}
  r2r: {{use: token_gate, small: small, large: large, artifact: {gate}}}
  eager: {{use: token_gate, small: small, large: large, artifact: {gate}, optimistic: true}}
  ead: {{use: entropy, small: small, large: large, {entropy}}}
  cascade: {{use: cascade, small: small, large: large, mean_logprob: {mean_logprob}}}
  sampled: {{use: best_of, small: small, large: large, {sampled}}}
  staged: {{use: best_of, small: small, large: large, majority: {{}}, artifact: {staged}, {worth}}}
  scored: {{use: best_of, small: small, large: large, {scored}}}
  careful: {{use: fallback, targets: [large, small]}}
  canary: {{use: split, weights: {{small: 1, large: 9}}}}
  experts: {{use: experts, artifact: {experts}, budget: {{large_share: 0.5}}}}
  read: {{use: context, readers: {{small: {{}}, large: {{}}}}, search: {search}}}
  hedged: {{use: hedge, model: large, backup: small, delay: 0.5}}
default: auto
baseline: large
"""
PARAMS_B = {"small": 59_616e-9, "large": 1_050_240e-9}
"""Parameters in billions, as the pair's README counts them."""
MEAN_LOGPROB = -0.035
"""Above it a draft of the small model is accepted; chosen on problems that no report uses."""


ENTROPY = "threshold: 0.136, back: 0.000136, window: 1, dwell: 1"
"""When the policy `ead` hands over; chosen in the same way, see docs/token-routing.md."""


SAMPLED = "stages: [4], majority: {}, bar: 1"
"""How `sampled` finds out that the small model is sure: all of four answers must be the same."""


WORTH = "worth: 22.3"
"""What a right answer is worth to `staged`: enough to keep 99.2 % of the large model's accuracy on
problems that no report uses, see docs/sampling.md."""
SCORED = "stages: [1, 4], score: {by: large}, bar: 0.831"
"""What `scored` takes for good: the bar of the reward head, see deploy/pair/README.md."""


SEARCH = "{chunk_tokens: 120, overlap_tokens: 20, keep: 4}"
"""Passages for a window of 4,096 tokens, of which the pair's tokenizer takes two to a token of
others."""


class EmbeddedError(Exception):
    """A model server did not come up; the message says why."""


@dataclass(slots=True)
class Pair:
    """The two servers; `close` ends them."""

    processes: list[asyncio.subprocess.Process]
    urls: dict[str, str]

    @property
    def document(self) -> str:
        """A config that serves them."""
        return DOCUMENT.format(
            **self.urls,
            params_small=PARAMS_B["small"],
            params_large=PARAMS_B["large"],
            mean_logprob=MEAN_LOGPROB,
            entropy=ENTROPY,
            sampled=SAMPLED,
            staged=json.dumps(str(MODELS / STAGED)),
            worth=WORTH,
            scored=SCORED,
            gate=HIDDEN,
            experts=json.dumps(str(MODELS / EXPERTS)),
            search=SEARCH,
        )

    async def close(self) -> None:
        """Let go of the pipes, which ends the servers."""
        for process in self.processes:
            if process.stdin:
                process.stdin.close()
        await asyncio.gather(*(process.wait() for process in self.processes))


async def start() -> Pair:
    """Start both servers. Raises `EmbeddedError`."""
    pair = Pair([], {})
    try:
        pair.processes = list(await asyncio.gather(*map(_spawn, SIZES)))
        async with asyncio.timeout(PATIENCE):
            for size, process in zip(SIZES, pair.processes, strict=True):
                pair.urls[size] = await _listening(size, process)
    except TimeoutError:
        await pair.close()
        raise EmbeddedError(f"the embedded pair was not ready after {PATIENCE:.0f} s") from None
    except EmbeddedError:
        await pair.close()
        raise
    return pair


async def _spawn(size: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    options = ["--served-model-name", size, "--port", "0", "--exit-with-parent"]
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "deploy.pair", "--model", str(MODELS / size), *options),
        stdin=pipe,
        stdout=pipe,
        env={**os.environ, ARTIFACTS_VARIABLE: str(MODELS / GATES)},
        start_new_session=True,  # Ctrl-C is the gateway's, which drains before the pair may go
    )


async def _listening(size: str, process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line.startswith(READY):
        raise EmbeddedError(f"the {size} model of the embedded pair did not start (see above)")
    return line.removeprefix(READY).strip().decode()


def written(config: Path | None) -> Document:
    """As `running`, and nothing runs: for what only reads the document."""
    from policies import TABLE
    from router.config import load_file, parse

    if config is not None:
        return load_file(config, TABLE)
    nowhere = Pair([], dict.fromkeys(SIZES, "http://127.0.0.1:1"))
    return parse(nowhere.document, TABLE, "the embedded pair")


@contextlib.asynccontextmanager
async def running(config: Path | None) -> AsyncIterator[Document]:
    """What `config` says, or without one the embedded pair's document, with the pair running."""
    from policies import TABLE
    from router.config import load_file, parse

    if config is not None:
        yield load_file(config, TABLE)
        return
    pair = await start()
    try:
        yield parse(pair.document, TABLE, "the embedded pair")
    finally:
        await pair.close()
