"""A calibration made by hand, of which every decision is easily worked out, and its file.

`python -m tests.policies.verdicts.made_calibration` writes it. One sample, then four. At equal
prices per token and a worth of 20: a sure first sample is given, an unsure one is drawn on from,
and one in which no answer is found goes to the large model; so do four that disagree.
"""

from __future__ import annotations

from pathlib import Path

from policies.verdicts.calibrated import Calibrated, Cap, Cell, Rate, Stage, write_calibrated

FILE = Path(__file__).parent / "calibration.json"
MAJORITY = {"use": "majority", "pattern": None, "field": None}


def cell(right: float, *following: float, large: float = 0.9, count: float = 50.0) -> Cell:
    return Cell(count, right, large, 100.0, following, 20.0 if following else 0.0)


FIRST = Stage(
    samples=1,
    cuts=(-0.3,),
    cells=((cell(0.3, 0.5, 0.5, 0.0), cell(0.98, 0.1, 0.9, 0.0), cell(0.0, 0.9, 0.1, 0.0)),),
)
LAST = Stage(
    samples=4,
    cuts=(0.6,),
    cells=(
        (cell(0.2), cell(0.97), cell(0.0)),
        (cell(0.5), cell(0.99), cell(0.0)),
        (cell(0.1), cell(0.4), cell(0.0)),
    ),
)
CAP = Cap(
    bar=0.7,
    most=8,
    accuracy=(0.6, 0.7, 0.8, 0.85, 0.86, 0.865, 0.868, 0.87),
    cost=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    false_positive=Rate(0.1, 0.05, 0.15),
    true_positive=Rate(0.8, 0.7, 0.9),
)
MADE = Calibrated(
    small="small",
    large="large",
    verifier=MAJORITY,
    temperature=0.7,
    prompt_tokens=10.0,
    large_tokens=100.0,
    stages=(FIRST, LAST),
    cap=CAP,
    data={"prompts": 150},
)


if __name__ == "__main__":
    write_calibrated(FILE, MADE)
