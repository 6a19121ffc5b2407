"""Stage 2: what the small model would have written at every token of the large one's answers.

The small model's engine is made to write the large model's answer (the gate's rule `trace`), and
records at each token, before it is forced, what the gate will see there. The records are files in a
folder which the server and this command share; names follow from their content, so that two runs
may share it too. Works alike on vLLM with the gate and on the embedded pair's server.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from policies.gate.settings import GateSettings, Rule
from policies.training.token_gate.answers import Answered
from policies.training.token_gate.arrays import Array
from policies.training.token_gate.endpoint import Endpoint
from policies.training.token_gate.errors import TrainingError
from policies.training.token_gate.journal import Row

_NAME_LENGTH = 24
"""Hexadecimal digits: never alike by chance."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """The small model, and the folder in which its server writes (TANDEM_GATE_TRACES)."""

    small: Endpoint
    folder: Path

    async def find(self, id_: str, answered: Answered) -> Row:
        """Trace one answer; the row has the small model's own choice at each token."""
        name = _name(self.small.model, answered)
        settings = GateSettings(rule=Rule.TRACE, force=answered.answer, record=name)
        size = len(answered.answer)
        # One more, for the reserved token that ends a trace whose answer has no end token.
        written = await self.small.complete(answered.prompt, size + 1, settings.xargs())
        if written.ids[:size] != answered.answer:
            raise TrainingError(
                f"the small model's server at {self.small.client.base_url} did not write the "
                "tokens it was told to: it runs without the token gate (see docs/training.md)"
            )
        record = load_record(self.folder, name)
        if len(record["predicted"]) != size:
            raise TrainingError(
                f"the trace {name} has {len(record['predicted'])} tokens instead of {size}: "
                "delete it and run again"
            )
        return {"id": id_, "record": name, "predicted": record["predicted"].tolist()}


def load_record(folder: Path, name: str) -> dict[str, Array]:
    """A record's arrays: hidden, top_logits, top_ids, predicted, entropy; one row a token."""
    file = folder / f"{name}.safetensors"
    try:
        arrays: dict[str, Array] = load_file(file)
    except FileNotFoundError:
        raise TrainingError(
            f"the small model's server wrote no {file.name} into {folder}: start it with "
            f"TANDEM_GATE_TRACES={folder.absolute()}, or name its folder with --traces"
        ) from None
    except SafetensorError as error:
        raise TrainingError(f"{file} is damaged ({error}): delete it and run again") from error
    return arrays


def _name(model: str, answered: Answered) -> str:
    content = json.dumps([model, answered.prompt, answered.answer])
    return hashlib.sha256(content.encode()).hexdigest()[:_NAME_LENGTH]
