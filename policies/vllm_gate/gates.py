"""The requests of one vLLM engine that have a gate, and what each must write next.

Both interfaces of vLLM end here, each with slots of its own kind. Settings were checked when the
request came (`admission`), but only here is the model known, and nothing can be refused any more: a
gate that turns out not to work stops its request at once, and the log says why. So a request never
runs on without the gate that it asked for, and no mistake ends the engine.

Knows the rules and what the plugin shows; must not know vLLM.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from policies.gate.arrays import Array, Arrays, Whole
from policies.gate.artifact import Artifact
from policies.gate.resources import Resources
from policies.gate.rules import Gate, Network, Rules, Step
from policies.gate.settings import PREFIX, GateSettings, Rule

log = logging.getLogger("vllm.tandem_gate")  # below vLLM's own, which prints what it is told


class Params(Protocol):
    """What is read of vLLM's `SamplingParams`."""

    @property
    def extra_args(self) -> dict[str, Any] | None:
        """The request's `vllm_xargs`."""

    @property
    def min_tokens(self) -> int:
        """Tokens before which vLLM ends no request."""


def asks(params: Params) -> bool:
    """Whether a request has a gate."""
    return PREFIX in (params.extra_args or ())


@dataclass(slots=True)
class Shown:
    """What the plugin shows of the model.

    `hidden` are the hidden states [rows, hidden] of the step's logits, kept only while `wanted`;
    `embed` gives the embedding rows of token ids. Both None without the plugin.
    """

    wanted: bool = False
    hidden: Array | None = None
    embed: Callable[[Array], Array] | None = None

    def take(self, rows: int) -> Array | None:
        """The hidden states of this step, once: what is left over is never of the next one."""
        hidden, self.hidden = self.hidden, None
        return hidden if hidden is not None and len(hidden) == rows else None


class Gates:
    """The gates of up to `slots` requests.

    `last` is the token that stops a request whose gate has none. Only one of several processes with
    the same requests (tensor parallelism) `writes` traces.
    """

    def __init__(
        self, slots: int, arrays: Arrays, resources: Resources, *, last: int, writes: bool = True
    ) -> None:
        self.resources = resources
        self.shown = Shown()
        self._arrays = arrays
        self._rules = Rules(slots, arrays)
        self._last = last
        self._writes = writes
        self._gates: dict[int, Gate] = {}
        self._read_hidden: set[int] = set()
        self._networks: dict[str, tuple[Artifact, Network]] = {}
        # Slots whose first position was not seen yet, and what the rules' positions are short of
        # the requests' where it was not 0.
        self._new: set[int] = set()
        self._lost: dict[int, int] = {}

    def begin(self, slot: int, params: Params) -> None:
        """A request that has a gate comes to a slot, whatever was there before."""
        try:
            settings = GateSettings.of(params.extra_args)
            assert settings is not None
            gate = self._gate(settings)
        except (ValueError, OSError) as error:
            gate = self._stopping(error)
        self._put(slot, gate)
        self._new.add(slot)
        self._lost.pop(slot, None)

    def end(self, slot: int) -> None:
        """The slot has no gate any more; does nothing when it had none."""
        if self._gates.pop(slot, None) is not None:
            self._rules.end(slot)
            self._new.discard(slot)
            self._lost.pop(slot, None)
            self._look(slot, None)

    def __contains__(self, slot: int) -> bool:
        return slot in self._gates

    def __len__(self) -> int:
        return len(self._gates)

    def decide(self, slots: Whole, positions: Whole, logits: Array, hidden: Array | None) -> Array:
        """The token that each row must write, int64 [rows] on the device; -1 is the model's choice.

        `positions` are how many tokens each request has had; `logits` [rows, vocabulary] and
        `hidden` [rows, hidden] are of these slots, in their order.
        """
        if self._new:
            for slot, position in zip(slots.tolist(), positions.tolist(), strict=True):
                if slot in self._new:
                    self._meet(slot, position)
        if self._lost:
            lost = [self._lost.get(slot, 0) for slot in slots.tolist()]
            positions = positions - np.asarray(lost, dtype=np.int64)
        if hidden is None and self.shown.wanted:
            self._do_without_hidden(slots)
        step = Step(slots, positions, logits, hidden)
        try:
            return self._rules.decide(step)
        except Exception:  # it would end the engine, and all that it serves
            log.exception("The gate failed")
            for slot in slots.tolist():
                self._put(slot, self._stopping("the rule failed, see above"))
            return self._rules.decide(step)

    def _meet(self, slot: int, position: int) -> None:
        """A request's first position: past 0 when it was preempted and has lost its slot.

        What came before is lost to its window, which starts anew there.
        """
        self._new.discard(slot)
        gate = self._gates[slot]
        if position == 0 or gate.settings.rule is not Rule.ENTROPY:
            return
        asked = gate.settings
        settled = replace(asked, history=(), since=asked.since + position)
        self._rules.begin(slot, replace(gate, settings=settled))
        self._lost[slot] = position

    def _do_without_hidden(self, slots: Whole) -> None:
        for slot in slots.tolist():
            network = self._gates[slot].network
            if network is not None and network.hidden:
                self._put(slot, self._stopping("vLLM showed no hidden states of this step"))

    def _put(self, slot: int, gate: Gate) -> None:
        self._gates[slot] = gate
        self._rules.begin(slot, gate)
        self._look(slot, gate)

    def _look(self, slot: int, gate: Gate | None) -> None:
        """Keep in mind who reads hidden states: they are kept for nobody else."""
        network = gate.network if gate else None
        if gate and (gate.trace is not None or (network is not None and network.hidden)):
            self._read_hidden.add(slot)
        else:
            self._read_hidden.discard(slot)
        self.shown.wanted = bool(self._read_hidden)

    def _gate(self, settings: GateSettings) -> Gate:
        self.resources.check(settings)
        return Gate(
            settings,
            self.resources.reserved(settings),
            self._network(settings) if settings.rule is Rule.NEURAL else None,
            self.resources.trace(settings)
            if settings.rule is Rule.TRACE and self._writes
            else None,
        )

    def _stopping(self, why: object) -> Gate:
        log.error("A request is stopped at once, since its gate cannot work: %s", why)
        stop = GateSettings(Rule.PROBE)
        try:
            return Gate(stop, self.resources.reserved(stop))
        except ValueError:
            return Gate(stop, self._last)

    def _network(self, settings: GateSettings) -> Network:
        artifact = self.resources.artifact(settings)
        name = str(settings.artifact)
        read, network = self._networks.get(name, (None, None))
        if network is None or read is not artifact:
            if self.shown.embed is None:
                raise ValueError("vLLM shows no embedding rows: see docs/gate.md on its plugin")
            network = Network.of(artifact, self._arrays, self.shown.embed)
            self._networks[name] = artifact, network
        return network
