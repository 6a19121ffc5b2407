"""How well refusals are seen, and what asking twice costs: on LaRA's published predictions.

A model's published score on questions that the text does not answer is the share that it refused.
So the share of its predictions that look like refusals should be that. Phrases were chosen on four
of the models; the others were only counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.bench.context_tasks import ALONE, MEASURED
from app.bench.context_value import sent
from app.bench.figures import Figure, Target, summary
from policies.reading.refusal import refuses, undecided
from policies.training.outcomes.tables import read_table

if TYPE_CHECKING:
    from app.bench.context_tasks import Judged

__all__ = ["refusals", "tokens"]

PREDICTIONS = "predictions_32k.parquet"
NAMED = {
    "llama-3.1-8b": "Llama-3.1-8B",
    "llama-3.3-70b": "Llama-3.3-70B",
    "qwen2.5-7b-instruct": "Qwen-2.5-7B",
    "mistral-nemo": "Mistral-Nemo-12B",
    "llama-3.2-3b": "Llama-3.2-3B",
    "llama-3.3-70b-turbo": "Llama-3.3-70B-Q8",
    "qwen2.5-72b-instruct": "Qwen-2.5-72B",
}
"""The models of the predictions, and what the table calls them."""
CHOSEN_ON = 4
"""Of these, the first so many were looked at when phrases were chosen."""
MODES = {"full": "long_context", "rag": "rag"}
ERROR = Target(5.0, at_least=False)


def refusals(data: Path) -> Iterator[Figure]:
    """The error of the share of refusals, and how often an answer is taken for one."""
    rows = _predictions(data)
    published = _published(data)
    off = {
        (model, mode): abs(_share(rows, model, mode, "hallu") - published[model, mode])
        for model in NAMED
        for mode in MODES
    }
    names = list(NAMED)
    for about, models in (
        ("models that phrases were chosen on", names[:CHOSEN_ON]),
        ("other models", names[CHOSEN_ON:]),
        ("all models", names),
    ):
        errors = [off[model, mode] for model in models for mode in MODES]
        target = ERROR if about == "all models" else None
        value = float(np.mean(errors))
        name = f"refusals, {about}: error of the share"
        yield Figure(name, value, min(errors), max(errors), "points", target)
    for mode, way in (("full", "whole"), ("rag", "passages")):
        for task in ("location", "reasoning", "comp"):
            shares = [_share(rows, model, mode, task) for model in NAMED]
            yield summary(f"taken for refusals, {way}: {task}", shares, "%")
    answers = [row["prediction"] for row in rows if row["mode"] == "rag"][::20]
    yield summary("answer held back", [float(_held(each)) for each in answers], "characters")


def _predictions(data: Path) -> list[dict[str, Any]]:
    columns = read_table(data / PREDICTIONS).columns
    names = ("model", "mode", "task", "question", "prediction")
    return [
        {**dict(zip(names, values, strict=True)), "refuses": refuses(str(values[-1]))}
        for values in zip(*(columns[name] for name in names), strict=True)
    ]


def _published(data: Path) -> Mapping[tuple[str, str], float]:
    columns = read_table(data / "table.csv").columns
    found = {}
    for at, (length, name, task) in enumerate(
        zip(columns["length"], columns["model"], columns["task"], strict=True)
    ):
        for model, called in NAMED.items():
            if (length, name, task) == ("32k", called, "hallucination"):
                for mode, column in MODES.items():
                    found[model, mode] = float(columns[column][at])
    return found


def _share(rows: list[dict[str, Any]], model: str, mode: str, task: str) -> float:
    """The percentage of these predictions that look like refusals."""
    wanted = (model, mode, task)
    said = [row["refuses"] for row in rows if (row["model"], row["mode"], row["task"]) == wanted]
    return float(100 * np.mean(said))


def _held(answer: str) -> int:
    """Characters after which it is known whether this answer is a refusal."""
    ends = range(len(answer) + 1)
    return next((end for end in ends if not undecided(answer[:end])), len(answer))


def tokens(found: Judged, data: Path) -> Iterator[Figure]:
    """Tokens of documents per question: by choosing, and by asking with passages first."""
    whole, passages = np.array(found.whole, float), np.array(found.passages, float)
    yield summary("tokens, always whole: mean", [float(whole.mean())], "tokens")
    yield summary("tokens, always passages: mean", [float(passages.mean())], "tokens")
    for name in (ALONE, MEASURED):
        means = sent(found, found.heads[name].unseen)
        shares = [100 * mean / float(whole.mean()) for mean in means]
        yield summary(f"tokens, chosen by tasks ({name})", means, "tokens", note="by model")
        yield summary(f"tokens, chosen by tasks ({name}): of whole", shares, "%")
    of_question = {text: at for at, text in enumerate(found.rows.questions)}
    rows = [row for row in _predictions(data) if row["mode"] == "rag"]
    spent, told, again = [], [], []
    for model in NAMED:
        refused = np.zeros(len(whole))
        for row in rows:
            if row["model"] == model:
                refused[of_question[row["question"]]] = row["refuses"]
        again.append(100 * float(refused.mean()))
        spent.append(float((passages + refused * whole).mean()))
        told.append(float(passages.mean() + refused.mean() * whole.mean()))
    yield summary("tokens, passages first: asked again", again, "%", note="by model")
    yield summary("tokens, passages first: mean", spent, "tokens", note="summed row by row")
    identity = "passages + (1 - answerable) x whole, of the means"
    yield summary("tokens, passages first: identity", told, "tokens", note=identity)
    shares = [100 * each / float(whole.mean()) for each in spent]
    yield summary("tokens, passages first: of whole", shares, "%")
