"""What `tandem bench backend` found: for people, for programs, and for the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from app.bench.backend_fit import TERMS, Term, Timed
from app.bench.backend_measure import Found

__all__ = ["Priced", "as_json", "as_text", "as_tree", "block", "coefficients", "summary"]

UNITS = {
    "call": "s",
    "prefill": "s/token",
    "decode": "s/token",
    "context": "s/token/token",
}
DIGITS = 4
"""Of a coefficient in the configuration: more than any interval has."""


@dataclass(frozen=True, slots=True)
class Priced:
    """What stands beside the coefficients: `usd_per_hour` of one accelerator, None if unsaid."""

    accelerators: int = 1
    usd_per_hour: float | None = None


def coefficients(found: Found) -> dict[str, float]:
    """The coefficients as the configuration takes them; those that are 0 are left out."""
    terms = found.fitted.terms
    return {name: _rounded(terms[name].value) for name in TERMS if terms[name].value > 0}


def block(found: Found, priced: Priced) -> str:
    """The settings of the model, as YAML."""
    settings: dict[str, Any] = {
        "idealised": coefficients(found),
        "accelerators": priced.accelerators,
    }
    if priced.usd_per_hour is not None:
        settings["usd_per_hour"] = priced.usd_per_hour
    lines = yaml.safe_dump({"models": {found.model: settings}}, sort_keys=False, width=200)
    return str(lines).rstrip()


def as_text(found: Found, priced: Priced) -> str:
    """The report for people."""
    calls = sum(len(one.seconds) for one in [*found.used, *found.kept])
    lines = [
        f"{found.model}: {calls} answers at {len(found.used)} + {len(found.kept)} pairs of lengths",
        "",
        *_terms(found),
        "",
        *_held_out(found),
        "",
        _errors(found),
        *[f"\nwarning: {warning}" for warning in found.warnings],
        "",
        "# for the configuration",
        block(found, priced),
    ]
    return "\n".join(lines)


def _errors(found: Found) -> str:
    worst = max(found.errors)
    return (
        f"median error on lengths not used in the fit {found.median_error:.1%}, worst {worst:.1%}"
    )


def _terms(found: Found) -> Iterator[str]:
    for name, term in found.fitted.terms.items():
        if name == "context" and (left := found.fitted.left_out):
            yield f"{name:<8} none: the interval, {left.low:.3g} to {left.high:.3g}, holds 0"
        else:
            interval = f"({term.low:.3g} to {term.high:.3g})"
            yield f"{name:<8} {term.value:<11.4g} {UNITS[name]:<14} {interval}"


def _held_out(found: Found) -> Iterator[str]:
    yield f"{'prompt':>8}{'answer':>8}{'measured s':>12}{'foretold s':>12}{'error':>8}"
    model = found.fitted.idealised
    for one in found.kept:
        told = model.seconds(one.usage)
        error = told / one.median - 1
        yield f"{one.prompt:>8}{one.completion:>8}{one.median:>12.4g}{told:>12.4g}{error:>+8.1%}"


def summary(found: Found) -> str:
    """One line: what a model takes alone, and how well that is known."""
    said = ", ".join(f"{name} {value:g}" for name, value in coefficients(found).items())
    return f"{found.model} alone, in seconds: {said}; {_errors(found)}"


def as_json(found: Found, priced: Priced, machine: Mapping[str, str]) -> str:
    """The report for programs; `machine` says where it was measured from."""
    whole = {"machine": machine, **as_tree(found), **asdict(priced)}
    return json.dumps({**whole, "yaml": block(found, priced)}, indent=2)


def as_tree(found: Found) -> dict[str, Any]:
    """All figures, as plain values."""
    return {
        "model": found.model,
        "idealised": coefficients(found),
        "terms": {name: asdict(term) for name, term in found.fitted.terms.items()},
        "context_left_out": _maybe(found.fitted.left_out),
        "median_error": found.median_error,
        "worst_error": max(found.errors),
        "fitted": [_told(one, found) for one in found.used],
        "held_out": [_told(one, found) for one in found.kept],
        "warnings": found.warnings,
    }


def _maybe(term: Term | None) -> Mapping[str, float] | None:
    return None if term is None else asdict(term)


def _told(one: Timed, found: Found) -> Mapping[str, Any]:
    return {**asdict(one), "foretold": found.fitted.idealised.seconds(one.usage)}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
