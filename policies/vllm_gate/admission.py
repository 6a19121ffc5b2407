"""Refuses a request whose gate cannot work, in the process that takes requests in.

vLLM asks there with the request's parameters and nothing else, and answers 400 with the text of a
ValueError. What the model is, the plugin tells once at start; without the plugin only that is
refused which is wrong for every model, and `gates` stops the rest at once.
"""

from __future__ import annotations

import os
import sys

from policies.gate.resources import Model, Resources
from policies.gate.settings import PREFIX, GateSettings, Rule
from policies.vllm_gate.gates import Params


class Admission:
    """Of one process. `resources` are those of its model, None until the plugin has told."""

    def __init__(self) -> None:
        self.resources: Resources | None = None

    def check(self, params: Params) -> None:
        """Raise ValueError if this request has a gate that cannot work; the text names the key."""
        settings = GateSettings.of(params.extra_args)
        if settings is None:
            return
        if params.min_tokens > 0:
            raise ValueError(
                f"min_tokens cannot be had with {PREFIX}: vLLM would write on past the token at "
                "which the gate stops"
            )
        if self.resources is not None:
            self.resources.check(settings)
            return
        if settings.rule is Rule.NEURAL:
            raise ValueError(
                f"{PREFIX} neural needs the model's embedding, which this vLLM does not show: "
                "install Tandem as a package into its environment (docs/gate.md)"
            )
        # Any model: every token is in its vocabulary, and it has a reserved one.
        any_model = Resources.of(os.environ, lambda _: 0, Model(vocabulary=sys.maxsize))
        any_model.check(settings)
