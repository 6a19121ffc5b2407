"""One of several processes that serve as one: `python -m app.worker`, started by `app.workers`.

It reads its order from standard input, serves on the sockets that it has inherited, says `ready`
once on standard output, and ends when standard input does: its parent is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop

from app.report import backends_report
from app.rooms import Rooms
from app.serve import Sockets, serve_on
from app.start import REFUSALS
from app.workers import READY, Order
from policies import TABLE
from router.config import Form, parse


def main() -> int:
    """Serve as the order says; gives the exit status."""
    order = Order(**json.loads(sys.stdin.readline()))
    try:
        uvloop.run(_serve(order))
    except REFUSALS as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(order: Order) -> None:
    document = parse(order.text, TABLE, order.source, Form(order.form))

    def up(room: Rooms) -> None:
        if order.first:
            print(backends_report(room.revisions.runtime), file=sys.stderr)
        os.write(sys.stdout.fileno(), READY)

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _orphaned)
    with socket.socket(fileno=order.front) as front, socket.socket(fileno=order.back) as back:
        front.setblocking(False)
        back.setblocking(False)
        await serve_on(document, Sockets(front, back, ""), up, Path(order.run))


def _orphaned() -> None:
    """Standard input has ended, since nothing more is ever written there: end as after a signal."""
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
