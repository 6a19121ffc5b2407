"""Writes the boards' JSON: `python -m deploy.grafana [FOLDER]`, which `make dashboards` is.

Files of boards that are no more are removed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.grafana.board import page
from deploy.grafana.boards import BOARDS

FOLDER = Path(__file__).parent / "dashboards"


def main(folder: Path) -> None:
    """Write all of them into this folder."""
    pages = {f"{board.name}.json": page(board) for board in BOARDS}
    for stale in {path.name for path in folder.glob("*.json")} - pages.keys():
        (folder / stale).unlink()
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
