"""The rules on arrays against the same rules in plain Python, and what batches must not mix up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from policies.gate.arrays import Array, Arrays, Floats
from policies.gate.chance import later, uniform
from policies.gate.network import Dimensions, Inputs, score, shapes
from policies.gate.rules import OWN, Gate, Network, Rules, Step, entropy
from policies.gate.settings import MAX_WINDOW, GateSettings, Rule
from policies.gate.trace import Trace
from tests.policies.gate import plain

SIZE = 12
STOP = 11
# A fixture that is the same for every example.
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def decide(rules: Rules, arrays: Arrays, slots: Sequence[int], step: Step) -> list[int]:
    asked = Step(slots, step.positions, arrays.up(step.logits))
    found: list[int] = arrays.down(rules.decide(asked)).tolist()
    return found


def logits(seed: int, *shape: int) -> Floats:
    rng = np.random.default_rng(seed)
    # From nearly even to nearly certain, so that entropies spread over their whole range.
    scale = 10 ** rng.uniform(-1, 1.2, size=(*shape[:-1], 1))
    return (rng.normal(size=shape) * scale).astype(np.float32)


def level(bits: float) -> Floats:
    """Logits of an entropy that float32 holds exactly: 2**bits equal ones."""
    row = np.full(SIZE, -np.inf, dtype=np.float32)
    row[: round(2**bits)] = 0.0
    return row


def run(arrays: Arrays, asked: GateSettings, rows: Sequence[Floats] | Floats) -> list[int]:
    """One request alone, to its last row."""
    rules = Rules(1, arrays)
    rules.begin(0, Gate(asked, STOP))
    steps = [Step([0], [position], row[None]) for position, row in enumerate(rows)]
    return [decide(rules, arrays, [0], step)[0] for step in steps]


def bits(*means: float, **changed: float | tuple[float, ...] | bool) -> GateSettings:
    (threshold,) = means
    return GateSettings(Rule.ENTROPY, threshold=threshold, **changed)  # type: ignore[arg-type]


RULES = st.builds(
    GateSettings,
    rule=st.sampled_from([Rule.ENTROPY, Rule.RANDOM]),
    threshold=st.floats(0, 4),
    window=st.integers(1, MAX_WINDOW) | st.integers(1, 6),
    dwell=st.integers(0, 12),
    since=st.integers(0, 12),
    history=st.lists(st.floats(0, 4), max_size=2 * MAX_WINDOW).map(tuple),
    below=st.booleans(),
    keep=st.booleans(),
    rate=st.floats(0, 1),
    seed=st.integers(-(2**63), 2**63 - 1),
)


@SHARED
@given(st.lists(RULES, min_size=1, max_size=5), st.integers(0, 2**32), st.integers(1, 80))
def test_a_batch_decides_as_plain_python_does(
    arrays: Arrays, asked: list[GateSettings], seed: int, steps: int
) -> None:
    rules, ours = Rules(len(asked), arrays), [plain.Plain(each, STOP) for each in asked]
    for slot, each in enumerate(asked):
        rules.begin(slot, Gate(each, STOP))
    rows = logits(seed, steps, len(asked), SIZE)
    slots = range(len(asked))
    wanted = [[one.decide(row.tolist()) for one, row in zip(ours, at, strict=True)] for at in rows]
    # Where float32 and float64 may fall on different sides of a threshold, nothing is said.
    assume(all(one.closest > 1e-4 for one in ours))
    found = [
        decide(rules, arrays, slots, Step(slots, [position] * len(asked), at))
        for position, at in enumerate(rows)
    ]
    assert found == wanted


@SHARED
@given(st.integers(0, 2**32))
def test_entropy_is_exact_to_a_hundred_thousandth_bit(arrays: Arrays, seed: int) -> None:
    rows = logits(seed, 4, 300)
    found = arrays.down(entropy(arrays, arrays.up(rows)))
    assert found == pytest.approx([plain.entropy(row.tolist()) for row in rows], abs=1e-5)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ([0.0] * 8, 3.0),
        ([1e30, 0.0, 0.0], 0.0),
        ([-np.inf, 5.0, 5.0, -np.inf], 1.0),
        ([-3e38, -3e38], 1.0),
        ([7.0], 0.0),
    ],
)
def test_entropy_at_the_edges(arrays: Arrays, row: list[float], wanted: float) -> None:
    found = entropy(arrays, arrays.up(np.asarray([row], dtype=np.float32)))
    assert arrays.down(found)[0] == pytest.approx(wanted, abs=1e-6)


def test_a_tie_goes_to_the_large_model(arrays: Arrays) -> None:
    tied = [level(1), level(1)]
    assert run(arrays, bits(1.0, window=2), tied) == [STOP, STOP]
    assert run(arrays, bits(1.0, window=2, below=True), tied) == [OWN, OWN]


def test_the_window_ends_with_the_token_in_question(arrays: Arrays) -> None:
    rows = [level(0), level(3), level(0), level(0), level(3), level(3)]
    assert run(arrays, bits(2.0), rows) == [OWN, STOP, OWN, OWN, STOP, STOP]
    # Means 0, 1.5, 1, 1, 1, 2: over as many as there are, three at most.
    assert run(arrays, bits(2.0, window=3), rows) == [OWN] * 5 + [STOP]


def test_a_window_may_begin_before_the_call(arrays: Arrays) -> None:
    row = [level(1)]
    assert run(arrays, bits(2.0, window=3), row) == [OWN]
    assert run(arrays, bits(2.0, window=3, history=(0.0, 2.0, 3.0)), row) == [STOP]
    assert run(arrays, bits(2.0, window=4, history=(0.0, 2.0, 3.0)), row) == [OWN]


def test_nothing_fires_before_the_dwell_time(arrays: Arrays) -> None:
    rows = [level(3)] * 4
    assert run(arrays, bits(1.0, dwell=2), rows) == [OWN, OWN, STOP, STOP]
    assert run(arrays, bits(1.0, dwell=2, since=1), rows) == [OWN, STOP, STOP, STOP]
    assert run(arrays, bits(4.0, dwell=2, below=True), rows) == [OWN, OWN, STOP, STOP]


def test_the_firing_token_may_be_kept(arrays: Arrays) -> None:
    rows = [level(0), level(3), level(0), level(0)]
    assert run(arrays, bits(1.0, keep=True), rows) == [OWN, OWN, STOP, OWN]
    asked = GateSettings(Rule.RANDOM, rate=1.0, keep=True)
    assert run(arrays, asked, rows) == [OWN, STOP, STOP, STOP]


def test_asking_twice_for_one_position_counts_once(arrays: Arrays) -> None:
    asked = bits(1.6, window=3, keep=True)
    rules = Rules(1, arrays)
    rules.begin(0, Gate(asked, STOP))
    rows = logits(5, 30, SIZE)
    wanted = run(arrays, asked, rows)
    for position, row in enumerate(rows):
        # First for a prompt that is not read to its end: other logits, the same position.
        decide(rules, arrays, [0], Step([0], [position], logits(position, 1, SIZE)))
        for _ in range(2):
            found = decide(rules, arrays, [0], Step([0], [position], row[None]))
            assert found == [wanted[position]]
    assert {*wanted} == {OWN, STOP}


@pytest.mark.parametrize("seed", [0, 1, -1, 2**62])
def test_chance_is_that_of_the_reference(seed: int) -> None:
    found = uniform(np.full(5, seed), np.arange(5))
    assert found.tolist() == [(plain.splitmix(seed, n) >> 11) / 2**53 for n in range(1, 6)]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10_000))
def test_a_sequence_may_be_taken_up_later(seed: int, gone: int) -> None:
    ours = later(seed, gone)
    assert -(2**63) <= ours < 2**63
    at = np.arange(3)
    assert uniform(np.full(3, ours), at).tolist() == uniform(np.full(3, seed), at + gone).tolist()


def test_the_first_output_of_splitmix64_is_the_published_one() -> None:
    # https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64 for the seed 1234567.
    assert plain.splitmix(1234567, 1) == 6457827717110365317


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_chance_fires_at_its_rate(arrays: Arrays, rate: float) -> None:
    count = 2000
    rules = Rules(count, arrays)
    for slot in range(count):
        rules.begin(slot, Gate(GateSettings(Rule.RANDOM, rate=rate, seed=slot), STOP))
    at = Step(range(count), [7] * count, np.zeros((count, 2), dtype=np.float32))
    fired = decide(rules, arrays, range(count), at).count(STOP)
    # Five standard deviations: the seeds are fixed, so this cannot fail by chance.
    assert abs(fired / count - rate) <= 5 * math.sqrt(rate * (1 - rate) / count)


def test_a_probe_writes_what_it_is_told(arrays: Arrays) -> None:
    asked = GateSettings(Rule.PROBE, force=(4, 2, 4))
    assert run(arrays, asked, [level(1)] * 5) == [4, 2, 4, STOP, STOP]


def test_rows_without_a_gate_are_left_alone(arrays: Arrays) -> None:
    rules = Rules(4, arrays)
    rules.begin(1, Gate(bits(0.0), STOP))
    rules.begin(3, Gate(bits(0.0), 5))
    rules.end(3)
    rules.end(3)
    rows = logits(1, 4, SIZE)
    assert decide(rules, arrays, range(4), Step(range(4), [0] * 4, rows)) == [OWN, STOP, OWN, OWN]
    assert decide(rules, arrays, [2, 0], Step([2, 0], [0] * 2, rows[:2])) == [OWN, OWN]


def test_a_slot_forgets_who_was_there(arrays: Arrays) -> None:
    rules = Rules(1, arrays)
    rules.begin(0, Gate(bits(1.0, window=4, history=(4.0, 4.0), keep=True), STOP))
    decide(rules, arrays, [0], Step([0], [0], level(3)[None]))
    rules.begin(0, Gate(bits(1.0, window=4, keep=True), 5))
    assert decide(rules, arrays, [0], Step([0], [1], level(0)[None])) == [OWN]


@pytest.mark.slow
@SHARED
@given(st.data())
def test_rows_come_in_any_order_and_not_all_at_once(arrays: Arrays, data: st.DataObject) -> None:
    asked = [bits(1.5, window=2 + request, keep=request == 1) for request in range(3)]
    rows = logits(data.draw(st.integers(0, 99)), 12, len(asked), SIZE)
    wanted = [run(arrays, each, rows[:, request]) for request, each in enumerate(asked)]
    rules, places, had = Rules(5, arrays), (4, 0, 2), [0, 0, 0]
    for request, each in enumerate(asked):
        rules.begin(places[request], Gate(each, STOP))
    while going := [request for request in range(3) if had[request] < len(rows)]:
        order = data.draw(st.lists(st.sampled_from(going), min_size=1, unique=True))
        at = Step([], [had[each] for each in order], np.stack([rows[had[e], e] for e in order]))
        found = decide(rules, arrays, [places[each] for each in order], at)
        assert found == [wanted[each][had[each]] for each in order]
        for request in order:
            had[request] += 1


def network(arrays: Arrays, seed: int, hidden: int) -> tuple[Network, Floats]:
    """A network with random weights, and its embedding matrix."""
    rng = np.random.default_rng(seed)
    sizes = Dimensions(hidden=hidden, embedding=5, width=6, blocks=2, top=8, vocabulary=SIZE)
    weights = {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes(sizes).items()
    }
    matrix = rng.normal(size=(SIZE, 5)).astype(np.float32)
    placed = {name: arrays.up(each) for name, each in weights.items()}
    embedding = arrays.up(matrix)
    return Network(placed, lambda ids: embedding[ids], 8, hidden > 0, 0.5), matrix


@pytest.mark.parametrize("hidden", [0, 3])
def test_learned_gates_of_several_requests_in_one_batch(arrays: Arrays, hidden: int) -> None:
    nets = [network(arrays, seed, hidden) for seed in range(2)]
    rules = Rules(6, arrays)
    for slot in range(5):
        asked = GateSettings(Rule.NEURAL, artifact="any", threshold=0.3 if slot == 4 else None)
        rules.begin(slot, Gate(asked, STOP, nets[slot % 2][0]))
    rules.begin(5, Gate(bits(1.0), STOP))
    fired: set[int] = set()
    for position in range(10):
        rows, states = logits(position, 6, SIZE), logits(position + 50, 6, 3)
        at = Step(range(6), [position] * 6, arrays.up(rows), arrays.up(states))
        found = arrays.down(rules.decide(at)).tolist()
        for slot in range(5):
            net, matrix = nets[slot % 2]
            one = rows[slot : slot + 1]
            inputs = Inputs(
                arrays.up(states[slot : slot + 1]) if hidden else None,
                arrays.up(matrix[one.argmax(-1)]),
                arrays.up(-np.sort(-one)[:, :8]),
            )
            value = float(score(arrays.xp, net.weights, inputs)[0])
            assert found[slot] == (STOP if value >= (0.3 if slot == 4 else 0.5) else OWN)
        fired |= {*found}
    assert fired == {OWN, STOP}


def test_a_gate_that_reads_hidden_states_needs_them(arrays: Arrays) -> None:
    rules = Rules(1, arrays)
    asked = GateSettings(Rule.NEURAL, artifact="any")
    rules.begin(0, Gate(asked, STOP, network(arrays, 0, 3)[0]))
    with pytest.raises(ValueError, match="hidden states"):
        decide(rules, arrays, [0], Step([0], [0], level(1)[None]))


def test_networks_that_nobody_uses_are_let_go(arrays: Arrays) -> None:
    rules = Rules(2, arrays)
    asked = GateSettings(Rule.NEURAL, artifact="any")
    for seed in range(5):
        for slot in range(2):
            rules.begin(slot, Gate(asked, STOP, network(arrays, seed, 0)[0]))
    assert len(rules._networks) <= 3


@pytest.mark.parametrize("hidden", [True, False])
def test_a_trace_is_what_was_seen(arrays: Arrays, tmp_path: Path, hidden: bool) -> None:
    force, size = (3, 1, 2), 150
    asked = GateSettings(Rule.TRACE, force=force, record="x")
    rules, file = Rules(3, arrays), tmp_path / "x.safetensors"
    rules.begin(1, Gate(bits(0.0), STOP))
    rules.begin(2, Gate(asked, STOP, trace=Trace(file, len(force))))
    rows, states = logits(3, 4, 3, size), logits(4, 4, 3, 7)
    found: list[Array] = []
    for position in range(4):
        state = arrays.up(states[position]) if hidden else None
        at = Step([0, 1, 2], [position] * 3, arrays.up(rows[position]), state)
        assert file.exists() == (position > 2)
        found.append(arrays.down(rules.decide(at)).tolist())
    assert found == [[OWN, STOP, token] for token in (*force, STOP)]
    assert [each.name for each in file.parent.iterdir()] == ["x.safetensors"]
    seen, mine = load_file(file), rows[:3, 2]
    order = np.argsort(-mine, axis=-1)[:, :100]
    np.testing.assert_array_equal(seen["top_ids"], order)
    np.testing.assert_array_equal(seen["top_logits"], np.take_along_axis(mine, order, -1))
    np.testing.assert_array_equal(seen["predicted"], mine.argmax(-1))
    assert seen["entropy"].tolist() == pytest.approx(
        [plain.entropy(r.tolist()) for r in mine], abs=1e-5
    )
    wanted = states[:3, 2].astype(np.float16) if hidden else np.zeros((3, 0), np.float16)
    np.testing.assert_array_equal(seen["hidden"], wanted)
    kinds = {name: str(each.dtype) for name, each in seen.items()}
    assert kinds == {
        "hidden": "float16", "top_logits": "float32", "top_ids": "int32", "predicted": "int32",
        "entropy": "float32",
    }  # fmt: skip


def test_a_trace_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = GateSettings(Rule.TRACE, force=(3,), record="x")
    rules = Rules(1)
    rules.begin(0, Gate(asked, STOP, trace=Trace(tmp_path / "gone" / "x.safetensors", 1)))
    assert decide(rules, Arrays(), [0], Step([0], [0], level(1)[None])) == [3]
    assert "could not be written" in caplog.text
