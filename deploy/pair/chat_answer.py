"""The answers of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from deploy.pair.answer import FLOOR, Answer, Head, Spoken, counted
from deploy.pair.bodies import ChatBody
from deploy.pair.engine import Generation, Token
from deploy.pair.text import Codec


class ChatAnswer(Answer):
    """The choices of one conversation. `prompt_text` is the rendered prompt."""

    def __init__(
        self,
        head: Head,
        body: ChatBody,
        codec: Codec,
        generations: Sequence[Generation],
        prompt_text: str,
    ) -> None:
        super().__init__(head, body, codec, generations)
        self._body = body
        self._prompt_text = prompt_text if body.return_prompt_text else None
        last = body.messages[-1]
        self._role = "assistant" if body.opens_answer else str(last["role"])
        content = last.get("content")
        echoes = body.echo and last["role"] == self._role and isinstance(content, str)
        self._echoed = str(content) if echoes else ""

    def opening(self) -> Iterable[dict[str, Any]]:
        """The role of each choice, with the prompt's ids if asked; then the echo, if asked."""
        for index, spoken in enumerate(self.spoken):
            choice = _delta(index, {"role": self._role, "content": ""})
            ids = self._prompt_ids(spoken)
            event = self.head.event([choice], prompt_token_ids=ids, prompt_text=self._prompt_text)
            if self.counts_on:
                event["usage"] = counted(len(spoken.prompt), 0)
            yield event
        if self._echoed:
            for index in range(len(self.spoken)):
                yield self.head.event([_delta(index, {"content": self._echoed})])

    def choice_event(self, index: int, spoken: Spoken, token: Token) -> dict[str, Any]:
        """One token."""
        choice = _delta(index, {"content": token.text})
        choice["logprobs"] = self._report(spoken, len(spoken.ids) - 1)
        choice["finish_reason"] = token.finish
        if token.finish is not None:
            choice["stop_reason"] = token.stop_reason
        choice["token_ids"] = [token.id] if self._body.return_token_ids else None
        return choice

    def whole(self) -> dict[str, Any]:
        """All choices, under the prompt's own fields."""
        first = self.spoken[0]
        return {
            **self.told([self._choice(*each) for each in enumerate(self.spoken)]),
            "prompt_logprobs": self.prompt_report(first.generation),
            "prompt_token_ids": self._prompt_ids(first),
            "prompt_text": self._prompt_text,
        }

    def _choice(self, index: int, spoken: Spoken) -> dict[str, Any]:
        nothing = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
        return {
            "index": index,
            "message": {"role": self._role, "content": self._echoed + spoken.text, **nothing},
            "logprobs": self._report(spoken, 0),
            "finish_reason": spoken.finish,
            "stop_reason": spoken.stop_reason,
            "token_ids": spoken.ids if self._body.return_token_ids else None,
            "routed_experts": None,
        }

    def _prompt_ids(self, spoken: Spoken) -> list[int] | None:
        return list(spoken.prompt) if self._body.return_token_ids else None

    def _report(self, spoken: Spoken, since: int) -> dict[str, Any] | None:
        """Log-probabilities of the tokens from `since` on."""
        if not self._body.logprobs:
            return None
        # The first score is the token's own; named ids are all reported, else the best few.
        most = None if self._body.logprob_token_ids else self._body.top_logprobs or 0
        content = []
        for at in range(since, len(spoken.ids)):
            listed = [self._entry(*score, spoken.ids[:at]) for score in spoken.scores[at]]
            content.append({**listed[0], "top_logprobs": listed[:most]})
        return {"content": content}

    def _entry(self, token: int, logprob: float, before: Sequence[int]) -> dict[str, Any]:
        return {
            "token": self.spelled(token, before),
            "logprob": max(logprob, FLOOR),
            "bytes": list(self.codec.token_text(token, before).encode()),
        }


def _delta(index: int, delta: dict[str, str]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
