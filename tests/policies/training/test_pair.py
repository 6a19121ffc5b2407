"""The stages on the embedded pair's servers, and where torch is installed the whole command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from app.cli import main
from app.embedded import GATES, HIDDEN, MODELS, NO_HIDDEN
from deploy.pair.gate import WEIGHTS, embedding_matrix
from deploy.pair.problems import TUNE_SEEDS, problems
from policies.gate.artifact import fingerprint, read_artifact
from policies.gate.network import Inputs, score
from policies.training.token_gate.arrays import Floats
from policies.training.token_gate.collect import Address, Asking, collect
from policies.training.token_gate.dataset import Examples, Split, build
from policies.training.token_gate.prompts import Prompt, read_prompts
from policies.training.token_gate.threshold import auc
from policies.training.token_gate.traces import load_record
from tests.pair.conftest import folder, server

TRACES = "TANDEM_GATE_TRACES"
SHIPPED = [MODELS / GATES / name for name in (HIDDEN, NO_HIDDEN)]
"""The pair's own gates."""


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def url(traces: Path) -> Iterator[str]:
    """Both models on one server that writes traces."""
    models = [f"--model={name}={folder(name)}" for name in ("small", "large")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRACES, str(traces))
        with server(*models) as client:
            yield str(client.base_url)


def asked(tmp_path: Path, n: int) -> Path:
    """A file of prompts with their answers."""
    file = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": each.prompt, "answer": each.answer} for each in problems(TUNE_SEEDS.start, n)
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def prompts(tmp_path: Path, n: int) -> list[Prompt]:
    return read_prompts(asked(tmp_path, n))


@pytest.mark.slow
async def test_the_stages_on_the_pair(url: str, traces: Path, tmp_path: Path) -> None:
    asking = Asking(Address(url, "small"), Address(url, "large"), max_tokens=320)
    found = await collect(asking, prompts(tmp_path, 12), tmp_path / "work", traces)
    assert len(found.answers) + found.wrong == 12
    for each in found.answers:
        record = load_record(traces, found.traces[each.id]["record"])
        assert record["hidden"].shape == (len(each.answer), 32)
        assert (np.diff(record["top_logits"]) <= 0).all()
        assert (record["predicted"] == record["top_ids"][:, 0]).all()
    made = build(found.answers, found.traces.rows, found.verdicts.rows, traces, Split(0, 0.2))
    assert 0 < made.divergent.sum() < made.differs.sum() < 0.1 * len(made)
    for gate in SHIPPED:
        told = verdict(gate, made)
        assert auc(told, made.divergent) > 0.95, gate
        assert (told >= read_artifact(gate).threshold).mean() < 0.15, gate


def verdict(gate: Path, made: Examples) -> Floats:
    """What a gate says to every token."""
    artifact = read_artifact(gate)
    embedding = embedding_matrix(folder("small") / WEIGHTS)
    assert embedding is not None
    assert made.hidden is not None
    assert artifact.model["fingerprint"] == fingerprint(embedding)
    hidden = made.hidden.astype(np.float32) if artifact.hidden else None
    scores: Floats = score(
        np, artifact.weights, Inputs(hidden, embedding[made.predicted], made.logits)
    )
    return scores


@pytest.mark.skipif(find_spec("torch") is None, reason="needs the `train` extra")
@pytest.mark.parametrize("hidden", [True, False])
def test_the_command_on_the_pair(
    url: str, traces: Path, tmp_path: Path, hidden: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        *("train", "token-gate", "--small", url, "--small-model", "small"),
        *("--large", url, "--large-model", "large", "--prompts", str(asked(tmp_path, 40))),
        *("--max-tokens", "320", "--out", str(tmp_path / "gate"), "--traces", str(traces)),
        *("--work", str(traces / "work")),  # the second gate asks nothing
        *("--width", "16", "--blocks", "1", "--epochs", "3", "--json"),
        *([] if hidden else ["--no-hidden"]),
    ]
    assert main(options) == 0
    figures = json.loads(capsys.readouterr().out)
    gate = read_artifact(tmp_path / "gate")
    assert gate.hidden is hidden
    assert gate.threshold == figures["threshold"]
    assert gate.metrics["auc"] == figures["auc"]
    assert (tmp_path / "gate" / "recall.png").read_bytes().startswith(b"\x89PNG")
