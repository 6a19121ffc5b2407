"""Texts of many kinds whose vectors the original model has given, in `reference.safetensors`.

Neighbours in meaning are among them, and texts that are cut at 256 tokens. `capture_reference.py`
asks the original again.
"""

from __future__ import annotations

import json
from pathlib import Path

SHORT = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

PARAGRAPH = (
    "The mill stood where the valley narrowed, and it had three owners in a hundred years. "
    "The first ground rye for the villages upstream. The second put in a turbine and sold "
    "light to the town, until the town built lines of its own. The third, an engineer who had "
    "come for a summer, kept bees, repaired clocks, and measured the water every morning at "
    "seven; his books, forty of them, are what is known of the river before the dam. "
)
"""Some 90 tokens."""
LINE = "    total += sum(row[column] for row in rows if row[column] is not None)\n"

TEXTS: tuple[str, ...] = (
    *SHORT,
    PARAGRAPH,
    PARAGRAPH * 2,
    PARAGRAPH * 20,
    "Summarise in one sentence what follows.\n\n" + PARAGRAPH * 3,
    "def totals(rows, column):\n    total = 0\n" + LINE * 60,
    "水" * 600,
    "Größenordnungsmäßig " * 100,
)
