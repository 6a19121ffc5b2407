"""The rules: one decision per row and step, for every engine and both array libraries.

An engine asks before each token is drawn: which rows must write which token? -1 is the model's own
choice. What a row must remember lives here, by slot, and depends on nothing but its settings and
the position that the engine states: to ask twice for one position (a prompt still being read, a
request that was preempted) decides the same and counts once.

What the host knows (settings, positions, chance, forced tokens) is decided on the host in numpy;
only entropies and scores are computed where the logits are, and nothing here waits for them but
`trace`, which writes them down. Must not know engines, requests or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from policies.gate.arrays import Array, Arrays, Whole
from policies.gate.artifact import Artifact
from policies.gate.chance import uniform
from policies.gate.network import TOP, Inputs, score
from policies.gate.settings import MAX_WINDOW, GateSettings, Rule
from policies.gate.trace import Seen, Trace

OWN = -1
"""No token is forced: the model's own choice."""
_NEVER = -2
"""No position, and none that any position follows."""
_LEAST = -200.0
"""So far below the best a logit's probability is 0 in float32, whose exp ends at -104."""
_BITS_PER_NAT = 1 / float(np.log(2))
_BACK = np.arange(MAX_WINDOW)
"""How many positions back, for every place in the longest window."""
_NUMBER = {rule: number for number, rule in enumerate(Rule, start=1)}
_FREE = 0
_TABLE = np.dtype(
    [
        ("rule", np.int64),
        ("token", np.int64),
        ("threshold", np.float32),
        ("window", np.int64),
        ("dwell", np.int64),
        ("since", np.int64),
        ("before", np.int64),
        ("below", np.bool_),
        ("keep", np.bool_),
        ("rate", np.float64),
        ("seed", np.int64),
        ("network", np.int64),
    ]
)
"""What the host keeps of each slot's settings; `before` counts the entropies of its history."""
Table: TypeAlias = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Network:
    """A learned gate, ready to run: `weights` as `network.shapes` names them, on the device.

    `embed` gives the embedding rows [rows, embedding] of token ids [rows]; `top` is how many logits
    the gate reads, `hidden` whether it reads hidden states.
    """

    weights: Mapping[str, Array]
    embed: Callable[[Array], Array]
    top: int
    hidden: bool
    threshold: float

    @classmethod
    def of(cls, artifact: Artifact, arrays: Arrays, embed: Callable[[Array], Array]) -> Network:
        """An artifact's gate, its weights put where the engine's arrays are."""
        weights = {name: arrays.up(each) for name, each in artifact.weights.items()}
        top, threshold = artifact.dimensions.top, artifact.threshold
        return cls(weights, embed, top, artifact.hidden, threshold)


@dataclass(frozen=True, slots=True)
class Gate:
    """One request's rule with all that it needs; `token` is the reserved one that stops it."""

    settings: GateSettings
    token: int
    network: Network | None = None
    trace: Trace | None = None

    @property
    def threshold(self) -> float:
        """In the rule's own unit; 0 for rules without one."""
        if self.settings.threshold is not None:
            return self.settings.threshold
        return self.network.threshold if self.network else 0.0

    def forced(self, position: int) -> int:
        """The token that `probe` and `trace` put there."""
        force = self.settings.force
        return force[position] if position < len(force) else self.token


@dataclass(frozen=True, slots=True)
class Step:
    """What an engine knows before a token is drawn, one row per request that it asks about.

    `slots` and `positions` are on the host; `positions` counts the tokens that each request has had
    in this call. `logits` [rows, vocabulary], raw, and `hidden` [rows, hidden], if the engine has
    them, are where they were computed.
    """

    slots: Sequence[int] | Whole
    positions: Sequence[int] | Whole
    logits: Array
    hidden: Array | None = None


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a step with one kind of rule, and what of them stays the same from step to step.

    An array of the device that is None says that no row asks for it.
    """

    at: Whole
    """Where they stand in the step."""
    whole: bool
    """They are all of it."""
    slots: Whole
    table: Table
    settled: Whole
    """From these positions on, each may fire and has a full window."""
    threshold: Array
    token: Array
    below: Array | None
    keep: Array | None
    places: Array
    """The slots, on the device."""
    rings: Whole
    """Where the entropies of each begin, [rows, 1]."""
    offsets: Whole
    """Of the longest window's entropies from the position, newest first, [rows, window]."""
    windows: Array | None
    """Their lengths, unless all are 1."""
    alike: bool
    """The lengths are."""

    def of(self, values: Array, arrays: Arrays) -> Array:
        """The rows of `values` that are meant, copied only if not all are."""
        return values if self.whole else values[arrays.up(self.at)]


@dataclass(frozen=True, slots=True)
class _Batch:
    """All rows of a step, and those that a value decides: with their network, or an entropy."""

    rows: _Rows
    valued: Sequence[tuple[_Rows, Network | None]]


class Rules:
    """The gates of one engine, for up to `slots` requests at once."""

    def __init__(self, slots: int, arrays: Arrays | None = None) -> None:
        self._arrays = arrays or Arrays()
        self._gates: list[Gate | None] = [None] * slots
        self._networks: list[Network] = []
        self._table: Table = np.zeros(slots, dtype=_TABLE)
        # A ring of each slot's last entropies.
        self._entropies = self._arrays.up(np.zeros(slots * MAX_WINDOW, dtype=np.float32))
        # Where a request that keeps its firing token last fired, at even and at odd positions.
        self._fired = self._arrays.up(np.full((slots, 2), _NEVER, dtype=np.int64))
        # The last batch, by its slots: mostly the next one is the same.
        self._batches: dict[bytes, _Batch] = {}

    def begin(self, slot: int, gate: Gate) -> None:
        """A request with this gate comes to the slot, whatever was there before."""
        asked = gate.settings
        history = asked.history[-MAX_WINDOW:]
        self._batches.clear()
        self._gates[slot] = gate
        self._table[slot] = (
            _NUMBER[asked.rule],
            gate.token,
            gate.threshold,
            asked.window,
            asked.dwell,
            asked.since,
            len(history),
            asked.below,
            asked.keep,
            asked.rate or 0.0,
            asked.seed,
            self._place(gate.network),
        )
        if asked.keep:
            self._fired[slot] = _NEVER
        if history:
            ring = np.zeros(MAX_WINDOW, dtype=np.float32)
            ring[: len(history)] = history
            self._entropies[slot * MAX_WINDOW :][:MAX_WINDOW] = self._arrays.up(ring)

    def end(self, slot: int) -> None:
        """The slot is free; does nothing when it was."""
        self._batches.clear()
        self._gates[slot] = None
        self._table[slot]["rule"] = _FREE

    def decide(self, step: Step) -> Array:
        """The token that each row must write, int64 [rows]; -1 leaves it to the model.

        Raises ValueError if a gate reads hidden states and the step has none.
        """
        slots = np.asarray(step.slots, dtype=np.int64)
        positions = np.asarray(step.positions, dtype=np.int64)
        batch = self._batch(slots)
        if len(batch.valued) == 1 and batch.valued[0][0].whole:
            return self._tokens(*batch.valued[0], positions, step)
        decided = self._arrays.up(self._known(batch.rows, positions, step))
        for rows, network in batch.valued:
            tokens = self._tokens(rows, network, positions[rows.at], step)
            decided[self._arrays.up(rows.at)] = tokens
        return decided

    def _batch(self, slots: Whole) -> _Batch:
        """The rows of these slots by their rules."""
        key = slots.tobytes()
        batch = self._batches.get(key)
        if batch is None:
            rules, networks = self._table[slots]["rule"], self._table[slots]["network"]
            valued: list[tuple[_Rows, Network | None]] = []
            if (entropies := rules == _NUMBER[Rule.ENTROPY]).any():
                valued.append((self._rows(slots, entropies), None))
            for place in sorted({*networks[rules == _NUMBER[Rule.NEURAL]].tolist()}):
                chosen = (rules == _NUMBER[Rule.NEURAL]) & (networks == place)
                valued.append((self._rows(slots, chosen), self._networks[place]))
            batch = _Batch(self._rows(slots, np.ones(len(slots), dtype=np.bool_)), valued)
            self._batches.clear()
            self._batches[key] = batch
        return batch

    def _rows(self, slots: Whole, chosen: npt.NDArray[np.bool_]) -> _Rows:
        up, spread = self._arrays.up, self._arrays.spread
        at = np.flatnonzero(chosen)
        table = self._table[slots[at]]
        below, keep, window = table["below"], table["keep"], table["window"]
        return _Rows(
            at,
            whole=len(at) == len(slots),
            slots=slots[at],
            table=table,
            settled=np.maximum(table["dwell"] - table["since"], window - 1 - table["before"]),
            threshold=spread(table["threshold"]),
            token=spread(table["token"]),
            below=up(below) if below.any() else None,
            keep=up(keep) if keep.any() else None,
            places=up(slots[at]),
            rings=slots[at][:, None] * MAX_WINDOW,
            offsets=table["before"][:, None] - _BACK[: int(window.max(initial=0))],
            windows=None if (window == 1).all() else spread(window.astype(np.float32)),
            alike=bool((window == window[:1]).all()),
        )

    def _known(self, rows: _Rows, positions: Whole, step: Step) -> Whole:
        """What needs no logits: chance, forced tokens, and rows without a gate."""
        tokens = np.full(len(positions), OWN, dtype=np.int64)
        rules = rows.table["rule"]
        if (at := np.flatnonzero(rules == _NUMBER[Rule.RANDOM])).size:
            table, here = rows.table[at], positions[at]
            before = _by_chance(table, here - 1) & (here > 0)
            stops = np.where(table["keep"], before, _by_chance(table, here))
            tokens[at] = np.where(stops, table["token"], OWN)
        tracing = rules == _NUMBER[Rule.TRACE]
        for row in np.flatnonzero(tracing | (rules == _NUMBER[Rule.PROBE])):
            gate = self._gates[rows.slots[row]]
            assert gate is not None
            tokens[row] = gate.forced(int(positions[row]))
        if tracing.any():
            self._record(np.flatnonzero(tracing), rows.slots, positions, step)
        return tokens

    def _tokens(self, rows: _Rows, network: Network | None, positions: Whole, step: Step) -> Array:
        """The tokens of rows that a value decides: the reserved one where it fires."""
        logits = rows.of(step.logits, self._arrays)
        settled = bool(np.logical_and.reduce(positions >= rows.settled))
        if network is None:
            values = entropy(self._arrays, logits)
            if rows.windows is not None:
                values = self._mean(rows, positions, values, settled=settled)
        else:
            hidden = None if step.hidden is None else rows.of(step.hidden, self._arrays)
            values = self._score(network, logits, hidden)
        return self._compared(rows, positions, values, settled=settled)

    def _mean(self, rows: _Rows, positions: Whole, bits: Array, *, settled: bool) -> Array:
        """The mean entropy of each row's window, which ends with `bits`, [rows]."""
        # Newest first: the places in the rings that the longest window reaches.
        cells = self._arrays.up((positions[:, None] + rows.offsets) % MAX_WINDOW + rows.rings)
        self._entropies[cells[:, 0]] = bits
        seen, used = self._entropies[cells], rows.windows
        if not (settled and rows.alike):
            counted = rows.table["before"] + positions
            full = np.minimum(rows.table["window"], counted + 1)
            inside = self._arrays.up(_BACK[: rows.offsets.shape[1]] < full[:, None])
            seen = self._arrays.xp.where(inside, seen, 0.0)
            used = self._arrays.spread(full.astype(np.float32))
        return self._arrays.total(seen) / used

    def _score(self, network: Network, logits: Array, hidden: Array | None) -> Array:
        if network.hidden and hidden is None:
            raise ValueError("this gate reads hidden states, and the engine shows none")
        floats = self._arrays.floats
        largest = self._arrays.largest(logits, network.top)
        rows = network.embed(logits.argmax(-1))
        seen = hidden if network.hidden else None
        inputs = Inputs(None if seen is None else floats(seen), floats(rows), floats(largest))
        return score(self._arrays.xp, network.weights, inputs)

    def _compared(self, rows: _Rows, positions: Whole, values: Array, *, settled: bool) -> Array:
        """The tokens of rows whose `values` [rows] are there."""
        threshold, table = rows.threshold, rows.table
        if not settled:
            ready = table["since"] + positions >= table["dwell"]
            # One that no value passes, on its own side, where it must not fire yet.
            barred = np.where(table["below"], np.float32(-np.inf), np.float32(np.inf))
            threshold = self._arrays.spread(np.where(ready, table["threshold"], barred))
        stops = values >= threshold
        if rows.below is not None:
            stops = stops != rows.below
        if rows.keep is not None:
            stops = self._kept(rows, rows.keep, positions, stops)
        return self._arrays.xp.where(stops, rows.token, OWN)

    def _kept(self, rows: _Rows, keep: Array, positions: Whole, fires: Array) -> Array:
        """Where to stop, when some rows keep the token at which they fire."""
        position = self._arrays.up(positions)
        before = self._fired[rows.places, (position - 1) % 2] == position - 1
        self._fired[rows.places, position % 2] = self._arrays.xp.where(fires, position, _NEVER)
        return self._arrays.xp.where(keep, before, fires)

    def _record(self, at: Whole, slots: Whole, positions: Whole, step: Step) -> None:
        """Write down what is seen at these rows of the step. Waits for the device."""
        down, places = self._arrays.down, self._arrays.up(at)
        logits = self._arrays.floats(step.logits)[places]
        found, ids = (down(each) for each in self._arrays.top(logits, min(TOP, logits.shape[-1])))
        predicted, bits = down(logits.argmax(-1)), down(entropy(self._arrays, logits))
        hidden = np.zeros((len(at), 0), dtype=np.float32)
        if step.hidden is not None:
            hidden = down(self._arrays.floats(step.hidden)[places])
        for row, (slot, position) in enumerate(zip(slots[at], positions[at], strict=True)):
            gate = self._gates[slot]
            if gate is not None and gate.trace is not None:
                values = hidden[row], found[row], ids[row], int(predicted[row]), float(bits[row])
                gate.trace.add(int(position), Seen(*values))

    def _place(self, network: Network | None) -> int:
        """The network's number; one that no request uses gives its number up."""
        if network is None:
            return -1
        used = {id(gate.network) for gate in self._gates if gate is not None}
        for place, known in enumerate(self._networks):
            if known is network:
                return place
        for place, known in enumerate(self._networks):
            if id(known) not in used:
                self._networks[place] = network
                return place
        self._networks.append(network)
        return len(self._networks) - 1


def entropy(arrays: Arrays, logits: Array) -> Array:
    """-sum p log2 p in bits, float32 [rows], of p = softmax of the logits [rows, vocabulary].

    Logits of -inf are impossible tokens and add nothing.
    """
    # Shifted, so that nothing overflows; cut off, so that 0 * -inf never comes up.
    shifted = arrays.below_best(logits, _LEAST)
    weights = arrays.xp.exp(shifted)
    total = arrays.total(weights)
    return (arrays.xp.log(total) - arrays.dot(weights, shifted) / total) * _BITS_PER_NAT


def _by_chance(table: Table, positions: Whole) -> npt.NDArray[np.bool_]:
    ready = table["since"] + positions >= table["dwell"]
    fires: npt.NDArray[np.bool_] = (uniform(table["seed"], positions) < table["rate"]) & ready
    return fires
