"""What each token of an answer should have been: the model that wrote it is asked itself.

Both models run here, in the test's own process, over the whole answer at once. Where nothing is
drawn, a token is right if it is its writer's best one after all that stands before it, whoever
wrote that. So an answer whose hand-offs nobody can foretell (chance, or a server that died in the
middle) can still be judged token by token: a lost or a doubled token puts out all that follow.
"""

from __future__ import annotations

from collections.abc import Sequence

from deploy.pair.engine import Engine, Job, Ranked
from deploy.pair.prefixes import PrefixPool
from deploy.pair.sampling import Sampling
from deploy.pair.text import Stopping
from tests.soak.hearing import Said
from tests.soak.servers import MODELS

NEAR = 1e-3
"""Natural log-probability: two tokens this close may change places. One pass over many tokens sums
in another order than one token at a time does, and differs by some 1e-6."""


class Judge:
    """Both models."""

    def __init__(self) -> None:
        self._engines = {name: Engine(MODELS / name) for name in ("small", "large")}
        for engine in self._engines.values():  # of what is asked here, nothing is asked again
            engine._prefixes = PrefixPool(engine.graph, kept_bytes=0)

    def text(self, ids: Sequence[int]) -> str:
        """What these tokens say."""
        return self._engines["small"].codec.decode(ids, skip_special=True)

    def answer(self, name: str, prompt: Sequence[int], most: int) -> Said:
        """The model's own answer."""
        tokens = self._engines[name].generate(
            Job(tuple(prompt), Stopping(most), Sampling(temperature=0))
        )
        written = [(name, token.id) for token in tokens]
        return Said(self.text([token for _, token in written]), written, tokens[-1].finish)

    def wrong(self, prompt: Sequence[int], said: Said) -> str | None:
        """The first token that its writer would not have written; None if there is none."""
        for at, (there, (writer, token)) in enumerate(
            zip(self._written(prompt, said), said.tokens, strict=True)
        ):
            if not _best(there):
                return f"token {at} of {len(said.tokens)}, {token}, is not {writer}'s: {there}"
        return None

    def logprobs(self, prompt: Sequence[int], said: Said) -> list[float]:
        """The natural log-probability that each token's writer gave it."""
        return [there.scores[0][1] for there in self._written(prompt, said)]

    def _written(self, prompt: Sequence[int], said: Said) -> list[Ranked]:
        ids = [*prompt, *said.ids]
        ranked = {name: self._ranked(name, ids) for name in {writer for writer, _ in said.tokens}}
        places = enumerate((writer for writer, _ in said.tokens), start=len(prompt))
        return [there for place, writer in places if (there := ranked[writer][place])]

    def _ranked(self, name: str, ids: Sequence[int]) -> list[Ranked | None]:
        engine = self._engines[name]
        (generation,) = engine.submit([Job(tuple(ids), Stopping(1), prompt_logprobs=1)])
        while not generation.ended:
            engine.step()
        return generation.prompt_scores


def _best(there: Ranked) -> bool:
    (_, own), *others = there.scores
    return there.rank == 1 or own >= max(logprob for _, logprob in others) - NEAR
