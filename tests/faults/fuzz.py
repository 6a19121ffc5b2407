"""Fuzzes one target in a process of its own.

    python -m tests.faults.fuzz TARGET RUNS CORPUS

With Atheris, where it is installed, inputs are grown from what they reach (libFuzzer); elsewhere
bytes are changed blindly. Either way an exception, an input that takes longer than `SLOWEST`, or
memory beyond `MOST` ends it with a status that is not 0, and the input is left beside CORPUS.
"""

from __future__ import annotations

import faulthandler
import logging
import random
import resource
import sys
import time
from pathlib import Path

SLOWEST = 5
"""Seconds for one input; a thousandth is usual."""
MOST = 700
"""MB for the process: libFuzzer's own tables have 100 of them."""
LONGEST = 2048
"""Bytes of an input."""
SEED = 6

try:
    import atheris
except ImportError:
    atheris = None

if atheris:
    with atheris.instrument_imports(include=["router", "policies", "app"]):
        from tests.faults.targets import TARGETS
else:
    from tests.faults.targets import TARGETS


def main(name: str, runs: int, corpus: Path) -> None:
    """Try so many inputs."""
    logging.disable()
    target = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(target.examples):
        (corpus / f"example-{number}").write_bytes(example)
    words = corpus.parent / f"{name}.words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    if atheris is None:
        blindly(name, runs, corpus)
        return
    options = [
        f"-runs={runs}", f"-timeout={SLOWEST}", f"-rss_limit_mb={MOST}", f"-max_len={LONGEST}",
        f"-seed={SEED}", f"-artifact_prefix={corpus.parent}/{name}-", f"-dict={words}",
        "-print_final_stats=1", "-verbosity=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.function)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def blindly(name: str, runs: int, corpus: Path) -> None:
    """The same without a view of what is reached."""
    target, draw = TARGETS[name], random.Random(SEED)
    pool = [path.read_bytes() for path in sorted(corpus.iterdir())] or [b""]
    for _ in range(runs):
        data = changed(draw, pool, target.words)
        faulthandler.dump_traceback_later(SLOWEST, exit=True)
        try:
            target.function(data)
        except BaseException:
            (corpus.parent / f"{name}-crash").write_bytes(data)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        if len(pool) < 200 and draw.random() < 0.01:
            pool.append(data)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e3
    )
    print(f"stat::number_of_executed_units: {runs}\nstat::peak_rss_mb: {held:.0f}")
    if held > MOST:
        sys.exit(f"{held:.0f} MB")


def changed(draw: random.Random, pool: list[bytes], words: object) -> bytes:
    """One of the pool, changed in a few places."""
    data = bytearray(draw.choice(pool))
    vocabulary = list(words) if isinstance(words, tuple) else [b"\0"]
    for _ in range(draw.randint(1, 6)):
        at = draw.randint(0, len(data))
        match draw.randrange(5):
            case 0:
                data[at:at] = draw.choice(vocabulary)
            case 1:
                data[at : at + draw.randint(1, 9)] = b""
            case 2:
                data[at:at] = draw.choice(pool)[:200]
            case 3:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case _:
                data[at:at] = data[at : at + draw.randint(1, 40)] * draw.randint(1, 5)
    return bytes(data[:LONGEST])


if __name__ == "__main__":
    began = time.monotonic()
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
