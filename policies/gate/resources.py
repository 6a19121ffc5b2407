"""What an engine's process gives to its gate: the reserved token, artifacts, a place for traces.

Both adapters ask here, so that both refuse the same requests in the same words. It knows the names
of environment variables and of reserved tokens; it must not know arrays on devices or any engine.
A refusal is a ValueError: the server answers 400 with its text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from policies.gate.artifact import CARD, WEIGHTS, Artifact, ArtifactError, read_artifact
from policies.gate.settings import PREFIX, GateSettings, Rule
from policies.gate.trace import Trace

TOKEN_VARIABLE = "TANDEM_GATE_TOKEN"  # noqa: S105  # a token of a vocabulary, no secret
ARTIFACTS_VARIABLE = "TANDEM_GATE_ARTIFACTS"
TRACES_VARIABLE = "TANDEM_GATE_TRACES"

RESERVED = (
    "<|gate|>",
    "<|reserved_special_token_0|>",
    "<|fim_pad|>",
    "<unused0>",
    "[control_8]",
    "<|reserved_200000|>",
    "<|dummy_0|>",
)
"""Special tokens that no model writes: the embedded pair's own, then those of Llama 3, Qwen 2.5 and
3, Gemma, Mistral, gpt-oss and Phi, the first one that a tokenizer has."""


def reserved_token(environ: Mapping[str, str], id_of: Callable[[str], int | None]) -> int | None:
    """The engine's own reserved token; `id_of` looks a special token up in its tokenizer.

    None if the environment names none and the tokenizer has none that is known. Raises ValueError
    if the environment names something else than an id.
    """
    named = environ.get(TOKEN_VARIABLE)
    if named is not None:
        if not named.isdecimal():
            raise ValueError(f"{TOKEN_VARIABLE} is a token id, not {named!r}")
        return int(named)
    return next((found for name in RESERVED if (found := id_of(name)) is not None), None)


@dataclass(frozen=True, slots=True)
class Model:
    """What a gate must know of the model whose engine it sits in.

    `hidden` is the size of the hidden states that the engine shows, None if it shows none;
    `fingerprint` is that of its embedding matrix, None where nobody looked.
    """

    vocabulary: int
    hidden: int | None = None
    embedding: int | None = None
    fingerprint: str | None = None


@dataclass(slots=True)
class Resources:
    """Of one engine. `token` is its own reserved token; folders are None where none is set."""

    model: Model
    token: int | None
    artifacts: Path | None = None
    traces: Path | None = None
    _read: dict[str, tuple[tuple[int, int], Artifact]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, environ: Mapping[str, str], id_of: Callable[[str], int | None], model: Model
    ) -> Resources:
        """From the process's environment and the engine's tokenizer."""
        artifacts, traces = environ.get(ARTIFACTS_VARIABLE), environ.get(TRACES_VARIABLE)
        return cls(
            model,
            reserved_token(environ, id_of),
            Path(artifacts) if artifacts else None,
            Path(traces) if traces else None,
        )

    def check(self, settings: GateSettings) -> None:
        """Raise ValueError if this engine cannot do what is asked."""
        self.reserved(settings)
        wrong = [token for token in settings.force if token >= self.model.vocabulary]
        if wrong:
            raise ValueError(f"{PREFIX}_force has ids that the vocabulary has not: {wrong[:5]}")
        if settings.rule is Rule.NEURAL:
            self.artifact(settings)
        if settings.rule is Rule.TRACE:
            self.trace(settings)

    def reserved(self, settings: GateSettings) -> int:
        """The token that stops this request."""
        token = self.token if settings.token is None else settings.token
        if token is None:
            raise ValueError(
                "the gate has no token to stop on: this tokenizer has no special token that is "
                f"known to be unused; name one by its id, in {TOKEN_VARIABLE} for this engine or "
                f"in {PREFIX}_token for one request"
            )
        if token >= self.model.vocabulary:
            raise ValueError(
                f"{PREFIX}_token {token} is not below the vocabulary's {self.model.vocabulary}"
            )
        return token

    def artifact(self, settings: GateSettings) -> Artifact:
        """The learned gate asked for; read on first use and again when its files have changed."""
        name = settings.artifact or ""
        folder = self._folder(name)
        stamps = [(folder / each).stat().st_mtime_ns for each in (CARD, WEIGHTS)]
        read = self._read.get(name)
        if read is None or read[0] != (stamps[0], stamps[1]):
            read = (stamps[0], stamps[1]), read_artifact(folder)
            self._read[name] = read
        self._check_fit(name, read[1])
        return read[1]

    def trace(self, settings: GateSettings) -> Trace:
        """A new trace of this request."""
        if self.traces is None:
            raise ValueError(
                f"this engine writes no traces: start it with {TRACES_VARIABLE} set to a folder"
            )
        try:
            self.traces.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{TRACES_VARIABLE}: {error}") from error
        return Trace(self.traces / f"{settings.record}.safetensors", len(settings.force))

    def _folder(self, name: str) -> Path:
        if self.artifacts is None:
            raise ValueError(
                f"this engine has no gates: start it with {ARTIFACTS_VARIABLE} set to the folder "
                "that holds them"
            )
        folder = self.artifacts / name
        if not all((folder / each).is_file() for each in (CARD, WEIGHTS)):
            cards = sorted(self.artifacts.glob(f"*/{CARD}"))
            known = ", ".join(card.parent.name for card in cards) or "none"
            raise ValueError(f"{PREFIX}_artifact: no gate {name!r} here; there are: {known}")
        return folder

    def _check_fit(self, name: str, artifact: Artifact) -> None:
        model, sizes = self.model, artifact.dimensions
        fits = (
            ("vocabulary", model.vocabulary, sizes.vocabulary),
            ("embedding", model.embedding, sizes.embedding),
            ("hidden", model.hidden, sizes.hidden or model.hidden),
            ("fingerprint", model.fingerprint, artifact.model.get("fingerprint")),
        )
        if artifact.hidden and model.hidden is None:
            raise ArtifactError(
                f"the gate {name} reads hidden states, which this engine does not show: use one "
                "that was trained without"
            )
        for what, ours, theirs in fits:
            if None not in {ours, theirs} and ours != theirs:
                raise ArtifactError(
                    f"the gate {name} was made for another model: its {what} is {theirs}, this "
                    f"model's is {ours}"
                )
