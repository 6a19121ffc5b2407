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

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """The rows of a step, or some of them: `at` is where they stand in it."""

    at: Whole
    slots: Whole
    positions: Whole
    table: Table

    def where(self, chosen: npt.NDArray[np.bool_]) -> _Rows:
        if chosen.all():
            return self
        at, slots = self.at[chosen], self.slots[chosen]
        return _Rows(at, slots, self.positions[chosen], self.table[chosen])

    def __len__(self) -> int:
        return len(self.at)


class Rules:
    """The gates of one engine, for up to `slots` requests at once."""

    def __init__(self, slots: int, arrays: Arrays | None = None) -> None:
        self._arrays = arrays or Arrays()
        self._gates: list[Gate | None] = [None] * slots
        self._networks: list[Network] = []
        self._table: Table = np.zeros(slots, dtype=_TABLE)
        # A ring of each slot's last entropies.
        self._entropies = self._arrays.up(np.zeros((slots, MAX_WINDOW), dtype=np.float32))
        # Where a request that keeps its firing token last fired, at even and at odd positions.
        self._fired = self._arrays.up(np.full((slots, 2), _NEVER, dtype=np.int64))

    def begin(self, slot: int, gate: Gate) -> None:
        """A request with this gate comes to the slot, whatever was there before."""
        asked = gate.settings
        history = asked.history[-MAX_WINDOW:]
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
            self._entropies[slot] = self._arrays.up(ring)

    def end(self, slot: int) -> None:
        """The slot is free; does nothing when it was."""
        self._gates[slot] = None
        self._table[slot]["rule"] = _FREE

    def decide(self, step: Step) -> Array:
        """The token that each row must write, int64 [rows]; -1 leaves it to the model.

        Raises ValueError if a gate reads hidden states and the step has none.
        """
        slots = np.asarray(step.slots, dtype=np.int64)
        positions = np.asarray(step.positions, dtype=np.int64)
        rows = _Rows(np.arange(len(slots)), slots, positions, self._table[slots])
        valued = list(self._valued(rows, step))
        if len(valued) == 1 and len(valued[0][0]) == len(rows):
            return self._compared(*valued[0])
        decided = self._arrays.up(self._known(rows, step))
        for some, values in valued:
            decided[self._arrays.up(some.at)] = self._compared(some, values)
        return decided

    def _known(self, rows: _Rows, step: Step) -> Whole:
        """What needs no logits: chance, forced tokens, and rows without a gate."""
        tokens = np.full(len(rows), OWN, dtype=np.int64)
        rules = rows.table["rule"]
        if (some := rows.where(rules == _NUMBER[Rule.RANDOM])).at.size:
            fires = _by_chance(some.table, some.positions)
            before = _by_chance(some.table, some.positions - 1) & (some.positions > 0)
            stops = np.where(some.table["keep"], before, fires)
            tokens[some.at] = np.where(stops, some.table["token"], OWN)
        tracing = rules == _NUMBER[Rule.TRACE]
        some = rows.where(tracing | (rules == _NUMBER[Rule.PROBE]))
        for at, slot, position in zip(some.at, some.slots, some.positions, strict=True):
            gate = self._gates[slot]
            assert gate is not None
            tokens[at] = gate.forced(int(position))
        if tracing.any():
            self._record(rows.where(tracing), step)
        return tokens

    def _valued(self, rows: _Rows, step: Step) -> Iterator[tuple[_Rows, Array]]:
        """Groups of rows with a value each to compare with their thresholds, on the device."""
        rules = rows.table["rule"]
        present = set(rules.tolist())
        if _NUMBER[Rule.ENTROPY] in present:
            some = rows.where(rules == _NUMBER[Rule.ENTROPY])
            yield some, self._mean(some, entropy(self._arrays, self._of(step.logits, some, rows)))
        if _NUMBER[Rule.NEURAL] in present:
            neural = rows.where(rules == _NUMBER[Rule.NEURAL])
            for place in set(neural.table["network"].tolist()):
                some = neural.where(neural.table["network"] == place)
                logits = self._of(step.logits, some, rows)
                hidden = None if step.hidden is None else self._of(step.hidden, some, rows)
                yield some, self._score(self._networks[place], logits, hidden)

    def _mean(self, rows: _Rows, bits: Array) -> Array:
        """The mean entropy of each row's window, which ends with `bits`, [rows]."""
        window = rows.table["window"]
        if (window == 1).all():
            return bits
        counted = rows.table["before"] + rows.positions
        columns = counted % MAX_WINDOW
        used = np.minimum(window, counted + 1)
        age = (columns[:, None] - np.arange(MAX_WINDOW)) % MAX_WINDOW
        share = (age < used[:, None]).astype(np.float32)
        places = self._arrays.up(np.stack([rows.slots, columns]))
        self._entropies[places[0], places[1]] = bits
        total = (self._entropies[places[0]] * self._arrays.up(share)).sum(-1)
        return total / self._arrays.spread(used.astype(np.float32))

    def _score(self, network: Network, logits: Array, hidden: Array | None) -> Array:
        if network.hidden and hidden is None:
            raise ValueError("this gate reads hidden states, and the engine shows none")
        floats = self._arrays.floats
        largest, _ = self._arrays.top(logits, network.top)
        rows = network.embed(logits.argmax(-1))
        seen = hidden if network.hidden else None
        inputs = Inputs(None if seen is None else floats(seen), floats(rows), floats(largest))
        return score(self._arrays.xp, network.weights, inputs)

    def _compared(self, rows: _Rows, values: Array) -> Array:
        """The tokens of rows whose `values` [rows] are there: the reserved one where it fires."""
        table, below = rows.table, rows.table["below"]
        thresholds = table["threshold"]
        ready = table["since"] + rows.positions >= table["dwell"]
        if not ready.all():
            # One that no value passes, on its own side, where it must not fire yet.
            barred = np.where(below, np.float32(-np.inf), np.float32(np.inf))
            thresholds = np.where(ready, thresholds, barred)
        stops = values >= self._arrays.spread(thresholds)
        if below.any():
            stops = stops != self._arrays.up(below)
        if table["keep"].any():
            stops = self._kept(rows, stops)
        return self._arrays.xp.where(stops, self._arrays.spread(table["token"]), OWN)

    def _kept(self, rows: _Rows, fires: Array) -> Array:
        """Where to stop, when some rows keep the token at which they fire."""
        keep = self._arrays.up(rows.table["keep"])
        slot, position = self._arrays.up(np.stack([rows.slots, rows.positions]))
        before = self._fired[slot, (position - 1) % 2] == position - 1
        self._fired[slot, position % 2] = self._arrays.xp.where(fires, position, _NEVER)
        return self._arrays.xp.where(keep, before, fires)

    def _record(self, rows: _Rows, step: Step) -> None:
        down, logits = self._arrays.down, self._arrays.floats(step.logits)[self._arrays.up(rows.at)]
        top = min(TOP, logits.shape[-1])
        found, ids = (down(each) for each in self._arrays.top(logits, top))
        predicted, bits = down(logits.argmax(-1)), down(entropy(self._arrays, logits))
        nothing = np.zeros((len(rows), 0), dtype=np.float32)
        shown = step.hidden
        hidden = nothing if shown is None else down(self._arrays.floats(shown))[rows.at]
        for at, (slot, position) in enumerate(zip(rows.slots, rows.positions, strict=True)):
            gate = self._gates[slot]
            if gate is not None and gate.trace is not None:
                seen = Seen(hidden[at], found[at], ids[at], int(predicted[at]), float(bits[at]))
                gate.trace.add(int(position), seen)

    def _of(self, values: Array, some: _Rows, rows: _Rows) -> Array:
        """The rows of `values` that are meant, copied only if not all are."""
        return values if len(some) == len(rows) else values[self._arrays.up(some.at)]

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
    xp = arrays.xp
    values = arrays.floats(logits)
    # Shifted, so that nothing overflows; clipped, so that 0 * -inf never comes up.
    shifted = xp.clip(values - xp.amax(values, -1)[:, None], _LEAST, None)
    weights = xp.exp(shifted)
    total = weights.sum(-1)
    return (xp.log(total) - (weights * shifted).sum(-1) / total) * _BITS_PER_NAT


def _by_chance(table: Table, positions: Whole) -> npt.NDArray[np.bool_]:
    ready = table["since"] + positions >= table["dwell"]
    fires: npt.NDArray[np.bool_] = (uniform(table["seed"], positions) < table["rate"]) & ready
    return fires
