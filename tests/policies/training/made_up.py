"""Two made-up models behind scripted backends: every character is a token, every answer is known.

The large model writes the answer of the table, from wherever the text so far has got to. The small
one agrees with it but for two characters: it begins with a capital letter, which changes nothing,
and it always writes an 8 for a 7, which does. So what the stages must find out can be read off.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from policies.training.token_gate.collect import Address, Asking
from policies.training.token_gate.prompts import Prompt
from tests.scripted import Backend, Call, answers

BEGIN, ASK, END = 0, 1, 2
ANSWERS = {"3+4": "so 7.", "5+5": "so 10.", "2+5": "so 7. ok"}
HIDDEN, TOP = 4, 6

Ids = list[int]
Body = dict[str, Any]


def prompts(*, known: bool = True) -> list[Prompt]:
    """A prompt for each answer; its exact result is the number in it."""
    results = {"3+4": "7", "5+5": "10", "2+5": "7"}
    return [
        Prompt(f"p{at}", ({"role": "user", "content": question},), result if known else None)
        for at, (question, result) in enumerate(results.items())
    ]


def asking(small: Backend, large: Backend, judge: Backend | None = None) -> Asking:
    """Both models, and perhaps a judge, at these addresses."""
    return Asking(
        Address(small.url), Address(large.url), Address(judge.url) if judge else None, at_once=2
    )


class Model:
    """What one backend does. `told` counts its completions by prompt and text so far.

    `traces` makes it the small one, with a gate that writes there; `shift` gives it a tokenizer of
    its own; `refuses` are questions at which it answers 400.
    """

    def __init__(self, backend: Backend, traces: Path | None = None, shift: int = 0) -> None:
        backend.asked = self.answer
        self.backend = backend
        self.traces = traces
        self.shift = shift
        self.gate = True
        self.refuses: set[str] = set()
        self.full = 0
        self.reply = "DIFFERENT"
        self.told = Counter[str]()
        self.chats: list[str] = []

    async def answer(self, call: Call) -> None:
        """One call."""
        match call.path:
            case "/v1/models":
                await self.backend.answer_probe(call)
            case "/tokenize":
                await answers({"tokens": self._ids(call.json)})(call)
            case "/detokenize":
                await answers({"prompt": text(call.json["tokens"])})(call)
            case "/v1/chat/completions":
                self.chats.append(call.json["messages"][0]["content"])
                await answers({"choices": [{"message": {"content": self.reply}}]})(call)
            case _:
                await self._complete(call)

    def _ids(self, body: Body) -> Ids:
        if "messages" in body:
            return [BEGIN, *ids(body["messages"][0]["content"]), ASK]
        return [each + self.shift for each in ids(body["prompt"])]

    async def _complete(self, call: Call) -> None:
        body = call.json
        at = body["prompt"].index(ASK)
        question, written = text(body["prompt"][1:at]), body["prompt"][at + 1 :]
        if self.full:
            self.full -= 1
            await answers({"error": "full"}, 503)(call)
        elif question in self.refuses:
            await answers({"error": "no"}, 400)(call)
        else:
            self.told[f"{question}|{text(written)}"] += 1
            await answers({"choices": [self._choice(body, question, written)]})(call)

    def _choice(self, body: Body, question: str, written: Ids) -> Body:
        new = [*ids(ANSWERS[question]), END][len(written) :] or [END]
        xargs = body.get("vllm_xargs")
        if self.traces:
            new = predicted(new)
        if xargs and self.gate and self.traces:
            new = xargs["tandem_gate_force"]
            record(self.traces / f"{xargs['tandem_gate_record']}.safetensors", new)
        new = new[: body["max_tokens"]]
        finish = "stop" if new[-1] == END else "length"
        return {"text": text(new), "token_ids": new, "finish_reason": finish}


def ids(of: str) -> Ids:
    return [ord(character) for character in of]


def text(of: Ids) -> str:
    return "".join(chr(each) for each in of if each > END)


def predicted(answer: Ids) -> Ids:
    """What the small model would write at each place of an answer."""
    capital = ids(text(answer[:1]).upper()) or answer[:1]
    return [ord("8") if each == ord("7") else each for each in (*capital, *answer[1:])]


def record(file: Path, answer: Ids) -> None:
    """A trace, as an engine writes it."""
    size = len(answer)
    save_file(
        {
            "hidden": np.ones((size, HIDDEN), np.float16),
            "top_logits": np.tile(np.arange(TOP, 0, -1, dtype=np.float32), (size, 1)),
            "top_ids": np.zeros((size, TOP), np.int32),
            "predicted": np.array(predicted(answer), np.int32),
            "entropy": np.zeros(size, np.float32),
        },
        file,
    )
