"""The policies Tandem comes with: one file each, and this table.

A policy is a frozen dataclass (its fields are its settings) with one generator method; it imports
`router.steps`, `router.phrases` and the `Fleet` type and nothing else of the gateway. To add one,
write its file, its test and its line here. Nothing registers itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from policies.best_of import BestOf
from policies.cascade import Cascade
from policies.context import Context
from policies.direct import Direct
from policies.entropy import Entropy
from policies.experts import Experts
from policies.fallback import Fallback
from policies.hedge import Hedge
from policies.overload import Overload
from policies.particles import ParticleFilter
from policies.split import Split
from policies.steps import Stepwise
from policies.token_gate import TokenGate
from router.steps import Policy

TABLE: Mapping[str, type[Policy]] = MappingProxyType(
    {
        "direct": Direct,
        "fallback": Fallback,
        "overload": Overload,
        "split": Split,
        "cascade": Cascade,
        "best_of": BestOf,
        "particles": ParticleFilter,
        "hedge": Hedge,
        "entropy": Entropy,
        "token_gate": TokenGate,
        "steps": Stepwise,
        "experts": Experts,
        "context": Context,
    }
)
"""What `use` may say in the config, and which policy that is."""
