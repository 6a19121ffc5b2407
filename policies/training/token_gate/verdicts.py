"""Stage 4: whether the small model's other token would change the answer, or only its wording.

Where the exact answer is known the result decides. Elsewhere a judge model compares both texts;
what it is told stands in `judge.txt`. A reply that names neither or both is no verdict: such a
token is left out of the training, since either label would be a guess.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from policies.training.token_gate.endpoint import Endpoint
from policies.training.token_gate.errors import TrainingError
from policies.training.token_gate.journal import Row
from policies.training.token_gate.prompts import Prompt
from policies.training.token_gate.results import ResultFinder

JUDGE_PROMPT = Path(__file__).with_name("judge.txt")
_WORD = re.compile(r"\b(same|different)\b", re.IGNORECASE)
_PLACES = "question", "before", "original", "other"
_DIGITS = 16
_REPLY_TOKENS = 512
"""Room for a judge that thinks aloud; the verdict is its last word."""


def exact(row: Row, answer: str, results: ResultFinder) -> Row:
    """The verdict where the answer is known; `row` is the continuation's."""
    divergent = not results.right(row["answer"], answer)
    return {"id": row["id"], "divergent": divergent, "by": "answer"}


@dataclass(frozen=True, slots=True)
class Judging:
    """The judge and what it is told, with places for the question and the texts."""

    judge: Endpoint
    template: str

    async def find(self, row: Row, prompt: Prompt) -> Row:
        """The judge's verdict on a continuation."""
        places = {"question": prompt.question, **row}
        reply = await self.judge.chat(filled(self.template, places), _REPLY_TOKENS)
        return {"id": row["id"], "divergent": verdict(reply), "by": "judge", "said": reply}


def filled(template: str, places: Row) -> str:
    """The template with `{question}`, `{before}`, `{original}` and `{other}` filled in.

    Braces elsewhere, in the template as in what is filled in, stay as they are.
    """
    return re.sub(r"\{(" + "|".join(_PLACES) + r")\}", lambda found: places[found[1]], template)


def read_template(file: Path) -> str:
    """What the judge is told. Raises TrainingError if it would not see both texts."""
    template = file.read_text(encoding="utf-8")
    missing = [place for place in ("{original}", "{other}") if place not in template]
    if missing:
        raise TrainingError(f"{file} has no place for {' and '.join(missing)}")
    return template


def digest(file: Path) -> str:
    """What tells one judge prompt from another."""
    return hashlib.sha256(read_template(file).encode()).hexdigest()[:_DIGITS]


def verdict(reply: str) -> bool | None:
    """True for different, False for the same, None for neither; the last line counts."""
    lines = [line for line in reply.splitlines() if line.strip()]
    words = {word.lower() for word in _WORD.findall(lines[-1] if lines else "")}
    return None if len(words) != 1 else words == {"different"}
