"""The gate in vLLM, played without vLLM: stand-ins for what its two interfaces hand over.

The same batches, with vLLM's own classes and torch, are in `tests/real_vllm/test_interfaces.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policies import engine_gate
from policies.engine_gate import Gate
from policies.gate.arrays import Floats
from policies.gate.artifact import Artifact, fingerprint, write_artifact
from policies.gate.network import Dimensions, shapes
from policies.gate.resources import Model
from policies.gate.settings import GateSettings, Rule
from policies.vllm_gate import plugin
from policies.vllm_gate.admission import Admission
from tests.policies.gate.vllm_batches import (
    ROWS,
    STOP,
    VOCABULARY,
    Crowd,
    SeenTensor,
    Slots,
    Words,
    check,
    configuration,
    parameters,
    plain_context,
    play_first,
    play_second,
)

HERE = SimpleNamespace(type="cpu")
WORDS = Words(SimpleNamespace, "one way", engine_gate.SWAP)


def first_gate(**changed: Any) -> Gate:
    return Gate(configuration(**changed), HERE, is_pin_memory=False)


def second_gate(slots: Any, **changed: Any) -> Gate:
    states = SimpleNamespace(
        device=HERE,
        max_num_reqs=ROWS,
        prompt_len=slots.prompt_len,
        prefill_len=slots.prefill_len,
    )
    return Gate(configuration(**changed), states)


# ------------------------------------------------------------------------------ batches by chance


@pytest.mark.parametrize("seed", range(12))
def test_rows_that_come_leave_and_move_decide_as_each_does_alone(seed: int) -> None:
    assert play_first(first_gate(), Crowd(seed), SeenTensor, WORDS) > 50


@pytest.mark.parametrize("seed", range(12))
def test_slots_that_are_taken_anew_decide_as_each_request_does_alone(seed: int) -> None:
    crowd = Crowd(seed)
    slots = Slots(crowd)
    assert play_second(second_gate(slots), slots, SeenTensor, plain_context) > 50


# ---------------------------------------------------------------------------------- single steps


def enter(gate: Gate, *settings: GateSettings | None) -> list[list[int]]:
    """Seat these requests in rows 0, 1, ...; their growing outputs."""
    outputs: list[list[int]] = [[] for _ in settings]
    added = [(row, parameters(each), [1], outputs[row]) for row, each in enumerate(settings)]
    gate.update_state(SimpleNamespace(batch_size=len(added), removed=[], added=added, moved=[]))
    return outputs


def logits(rows: int) -> Any:
    return np.random.default_rng(1).normal(size=(rows, VOCABULARY)).astype(np.float32)


PROBE = GateSettings(Rule.PROBE, token=STOP, force=(3,))


def test_a_batch_without_gates_is_not_even_looked_at() -> None:
    gate = first_gate()
    enter(gate, None, None)
    gate.update_state(None)
    assert gate.apply(untouchable := object()) is untouchable
    slots = Slots(Crowd(0))
    gate = second_gate(slots)
    assert not gate.add_request(0, parameters(None))
    assert gate.apply(untouchable, object()) is untouchable


def test_a_gate_whose_token_is_unknown_ends_its_request_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = first_gate()
    enter(gate, GateSettings(Rule.ENTROPY, threshold=9.0), None)
    rows = logits(2)
    before = rows.copy()
    gate.apply(SeenTensor(rows))
    check(before, rows, [2, -1])  # 2 is the end of text
    assert "TANDEM_GATE_TOKEN" in caplog.text


def test_a_rule_that_fails_stops_its_requests_and_not_the_engine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = first_gate()
    enter(gate, None, GateSettings(Rule.ENTROPY, token=STOP, threshold=9.0))

    def broken(arrays: object, logits: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("policies.gate.rules.entropy", broken)
    rows = logits(2)
    before = rows.copy()
    gate.apply(SeenTensor(rows))
    check(before, rows, [-1, 2])
    assert "on purpose" in caplog.text


def test_choices_that_share_their_parameters_have_seats_of_their_own() -> None:
    """As of one request with n > 1, when vLLM runs inside one process."""
    gate, shared = first_gate(), parameters(PROBE)
    for _ in range(5 * ROWS):
        outputs: list[list[int]] = [[], []]
        added = [(row, shared, [1], output) for row, output in enumerate(outputs)]
        gate.update_state(WORDS.update(batch_size=2, removed=[1, 0], added=added, moved=[]))
        for token in (3, STOP):
            rows = logits(2)
            before = rows.copy()
            gate.apply(SeenTensor(rows))
            assert check(before, rows, [token, token]) == 2
            for output in outputs:
                output.append(token)


def test_speculative_decoding_has_no_gate() -> None:
    slots = Slots(Crowd(0))
    gate = second_gate(slots, speculative_config=object())
    assert not gate.add_request(0, parameters(PROBE))
    first = first_gate(speculative_config=object())
    enter(first, PROBE)
    assert first.apply(untouchable := object()) is untouchable


def test_it_can_change_what_is_likeliest() -> None:
    assert not first_gate().is_argmax_invariant()


# ---------------------------------------------------------------------------- what the plugin shows


class ModelOf:
    """A model: its hidden states are its logits' first columns, its embedding counts."""

    matrix: Floats = np.arange(VOCABULARY * 5, dtype=np.float32).reshape(VOCABULARY, 5)

    def compute_logits(self, hidden: Any) -> str:
        return f"logits of {len(hidden)}"


def learned(folder: Path, *, hidden: bool) -> Artifact:
    sizes = Dimensions(4 if hidden else 0, 5, 6, 1, 10, VOCABULARY)
    chance = np.random.default_rng(2)
    weights = {
        name: chance.normal(size=shape).astype(np.float32) for name, shape in shapes(sizes).items()
    }
    model = {"name": "any", "fingerprint": fingerprint(ModelOf.matrix)}
    artifact = Artifact(
        hidden, sizes, 0.5, model=model, data={}, metrics={}, created="", weights=weights
    )
    write_artifact(folder / "any", artifact)
    return artifact


NEURAL = GateSettings(Rule.NEURAL, token=STOP, artifact="any", threshold=0.0)
"""Fires always."""


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Gate]:
    """Makes a gate that the plugin has shown a model."""

    def make(*, hidden: bool = True) -> Gate:
        monkeypatch.setenv("TANDEM_GATE_ARTIFACTS", str(tmp_path))
        learned(tmp_path, hidden=hidden)
        gate = first_gate()
        gate.gates.shown.embed = ModelOf.matrix.__getitem__
        gate.gates.resources.model = Model(VOCABULARY, 4, 5, fingerprint(ModelOf.matrix))
        return gate

    return make


def tapped(gate: Gate) -> ModelOf:
    model = ModelOf()
    plugin._tell(model, gate.gates.shown)
    return model


class Hidden(SeenTensor):
    """As much of the hidden states' tensor as is used."""

    def float(self) -> Hidden:
        return self


def test_hidden_states_are_kept_for_those_who_read_them(shown: Callable[..., Gate]) -> None:
    gate = shown()
    model = tapped(gate)
    assert model.compute_logits([0] * 3) == "logits of 3"
    assert gate.gates.shown.hidden is None
    enter(gate, None, NEURAL)
    model.compute_logits(Hidden(np.zeros((2, 4), dtype=np.float32)))
    rows = logits(2)
    before = rows.copy()
    gate.apply(SeenTensor(rows))
    assert check(before, rows, [-1, STOP]) == 1
    assert gate.gates.shown.hidden is None, "they are this step's only"


def test_hidden_states_of_other_rows_are_not_taken_for_these(
    shown: Callable[..., Gate], caplog: pytest.LogCaptureFixture
) -> None:
    """As those of a prompt, for its log-probabilities; the request stops, and the log says why."""
    gate = shown()
    model = tapped(gate)
    enter(gate, None, NEURAL)
    model.compute_logits(Hidden(np.zeros((9, 4), dtype=np.float32)))
    rows = logits(2)
    before = rows.copy()
    gate.apply(SeenTensor(rows))
    check(before, rows, [-1, 2])
    assert "showed no hidden states" in caplog.text


def test_a_gate_without_hidden_states_needs_the_embedding_only(
    shown: Callable[..., Gate],
) -> None:
    gate = shown(hidden=False)
    enter(gate, NEURAL)
    assert not gate.gates.shown.wanted
    rows = logits(1)
    before = rows.copy()
    gate.apply(SeenTensor(rows))
    assert check(before, rows, [STOP]) == 1


def test_the_gate_is_loaded_once_though_named_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = first_gate(), first_gate()
    looked: list[Model] = []
    monkeypatch.setattr(plugin, "_looked_at", lambda runner, model, shown: looked.append(model))
    processors = SimpleNamespace(all=[object(), first, second])
    runner = SimpleNamespace(model=ModelOf(), input_batch=SimpleNamespace(logitsprocs=processors))
    plugin.show(runner)
    enter(second, PROBE)
    assert second.apply(untouchable := object()) is untouchable
    assert len(looked) == 1
    sampler = SimpleNamespace(logits_processors=[first])
    plugin.show(SimpleNamespace(model=ModelOf(), sampler=sampler))
    assert len(looked) == 2


def test_a_method_is_extended_once() -> None:
    class Wrapper:
        worker = SimpleNamespace(load_model=lambda: "loaded")

    seen: list[Wrapper] = []
    for _ in range(2):
        plugin._extend(Wrapper, "load_model", seen.append)
    assert Wrapper().load_model() == "loaded"  # type: ignore[attr-defined]  # just put there
    assert len(seen) == 1


# ---------------------------------------------------------------------------------------- admission


def test_without_the_plugin_what_is_wrong_for_any_model_is_refused() -> None:
    admission = Admission()
    admission.check(parameters(None))
    admission.check(parameters(PROBE))
    with pytest.raises(ValueError, match="install Tandem"):
        admission.check(parameters(NEURAL))
    with pytest.raises(ValueError, match="TANDEM_GATE_TRACES"):
        admission.check(parameters(GateSettings(Rule.TRACE, force=(1,), record="x")))
    with pytest.raises(ValueError, match="tandem_gate_threshold"):
        admission.check(SimpleNamespace(extra_args={"tandem_gate": "entropy"}, min_tokens=0))


def test_min_tokens_would_run_past_the_gate() -> None:
    asked = SimpleNamespace(extra_args=PROBE.xargs(), min_tokens=1)
    with pytest.raises(ValueError, match="min_tokens"):
        Admission().check(asked)
    Admission().check(SimpleNamespace(extra_args=None, min_tokens=1))


# ------------------------------------------------------------------------------------- its company

GATEWAYS_OWN = ("jsonschema_rs", "fastapi", "starlette", "uvicorn", "aiohttp", "orjson", "yarl")


def test_it_is_loaded_without_the_gateways_libraries_and_without_torch() -> None:
    """As in an environment with vLLM, into which Tandem was installed without its dependencies."""
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in (*GATEWAYS_OWN, "torch"))
    script = f"import sys; {blocked}import policies.engine_gate, policies.vllm_gate.plugin"
    subprocess.run([sys.executable, "-c", script], check=True)
