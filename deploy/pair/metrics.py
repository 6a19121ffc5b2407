"""What has happened, in Prometheus' text format, under vLLM's names.

Knows the counters of what is served. Must not count anything itself. `pair:` names are the ones
that vLLM has no equal for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.pair.served import Served
from deploy.pair.sleep import DEEPEST

_Sample = tuple[str, str, str, float]


def exposition(models: Sequence[Served]) -> bytes:
    """All models' metrics; each name once, with its samples together."""
    lines: dict[str, list[str]] = {}
    for served in models:
        for name, kind, labels, value in _samples(served):
            family = lines.setdefault(name, [f"# TYPE {name} {kind}"])
            family.append(f'{name}{{engine="0",model_name="{served.name}"{labels}}} {value}')
    text = "\n".join(line for family in lines.values() for line in family)
    return f"{text}\n".encode()


def _samples(served: Served) -> Iterator[_Sample]:
    engine, counters = served.engine, served.engine.counters
    yield "vllm:num_requests_running", "gauge", "", engine.running
    yield "vllm:num_requests_waiting", "gauge", "", engine.waiting
    yield "vllm:prompt_tokens_total", "counter", "", counters.prompt_tokens
    yield "vllm:generation_tokens_total", "counter", "", counters.generated_tokens
    yield "vllm:prefix_cache_queries_total", "counter", "", counters.prefix_queries
    yield "vllm:prefix_cache_hits_total", "counter", "", counters.prefix_hits
    for reason, count in counters.finished.items():
        label = f',finished_reason="{reason}"'
        yield "vllm:request_success_total", "counter", label, count
    level = served.sleep.level
    states = {"awake": not served.sleep.paused, "weights_offloaded": level == 1}
    for state, holds in {**states, "discard_all": level == DEEPEST}.items():
        label = f',sleep_state="{state}"'
        yield "vllm:engine_sleep_state", "gauge", label, int(holds)
    yield "pair:cancelled_total", "counter", "", served.cancelled_requests
