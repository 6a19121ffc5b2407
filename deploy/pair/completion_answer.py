"""The answers of /v1/completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from deploy.pair.answer import FLOOR, Answer, Head, Spoken
from deploy.pair.bodies import CompletionBody
from deploy.pair.engine import Generation, Token
from deploy.pair.sampling import Scores
from deploy.pair.text import Codec


class CompletionAnswer(Answer):
    """The choices of one or more prompts, `n` each, prompt by prompt."""

    def __init__(
        self, head: Head, body: CompletionBody, codec: Codec, generations: Sequence[Generation]
    ) -> None:
        super().__init__(head, body, codec, generations)
        self._body = body
        self._echoes_only = bool(body.echo) and body.max_tokens == 0
        self._offsets = [0] * len(generations)

    def opening(self) -> Iterable[dict[str, Any]]:
        """Nothing: the first token's event has it all."""
        return ()

    def choice_event(self, index: int, spoken: Spoken, token: Token) -> dict[str, Any]:
        """One token; with the first, the prompt if it is echoed or its ids are asked."""
        since = len(spoken.ids) - 1
        shows_prompt = since == 0 and (self._body.echo or self._body.return_token_ids)
        report = self._report(spoken, since, self._offsets[index])
        if report is not None:
            self._offsets[index] = report["text_offset"][-1] + len(report["tokens"][-1])
        return {
            "index": index,
            "text": self._text(spoken, token.text) if since == 0 else token.text,
            "logprobs": report,
            "finish_reason": token.finish,
            "stop_reason": token.stop_reason,
            "prompt_token_ids": list(spoken.prompt) if shows_prompt else None,
            "token_ids": [token.id] if self._body.return_token_ids else None,
        }

    def whole(self) -> dict[str, Any]:
        """All choices; each has its prompt's own fields."""
        return self.told([self._choice(*each) for each in enumerate(self.spoken)])

    def _choice(self, index: int, spoken: Spoken) -> dict[str, Any]:
        asks_ids = self._body.return_token_ids
        return {
            "index": index,
            "text": self._text(spoken, spoken.text),
            "logprobs": self._report(spoken, 0, 0),
            "finish_reason": spoken.finish,
            "stop_reason": spoken.stop_reason,
            "token_ids": spoken.ids if asks_ids else None,
            "prompt_logprobs": self.prompt_report(spoken.generation),
            "prompt_token_ids": list(spoken.prompt) if asks_ids else None,
            "routed_experts": None,
        }

    def _text(self, spoken: Spoken, made: str) -> str:
        """What was made, behind the prompt if that is echoed (vLLM: not when ids are asked)."""
        echoes = self._body.echo and not self._body.return_token_ids
        prompt = self.codec.decode(spoken.prompt) if echoes else ""
        return prompt if self._echoes_only else prompt + made

    def _report(self, spoken: Spoken, since: int, offset: int) -> dict[str, list[Any]] | None:
        """OpenAI's four parallel lists for the tokens from `since` on, and an echoed prompt."""
        if self._body.logprobs is None:
            return None
        told: list[tuple[int, Scores | None]] = []
        before = spoken.ids[:since]
        if self._body.echo and since == 0:
            known = spoken.generation.prompt_scores
            scores = [None if each is None else each.scores for each in known]
            told += zip(spoken.prompt, scores, strict=True)
        if not self._echoes_only:
            told += zip(spoken.ids[since:], spoken.scores[since:], strict=True)
        return self._lists(told, before, offset)

    def _lists(
        self, told: Sequence[tuple[int, Scores | None]], before: list[int], offset: int
    ) -> dict[str, list[Any]]:
        tokens, logprobs, best, offsets = [], [], [], []
        for token, scored in told:
            spelled = self.spelled(token, before)
            tokens.append(spelled)
            offsets.append(offset)
            logprobs.append(max(scored[0][1], FLOOR) if scored else None)
            best.append(self._best(scored, before) if scored else None)
            offset += len(spelled)
            before = [*before, token]
        return {
            "text_offset": offsets,
            "token_logprobs": logprobs,
            "tokens": tokens,
            "top_logprobs": best,
        }

    def _best(self, scored: Scores, before: Sequence[int]) -> dict[str, float]:
        most = None if self._body.logprob_token_ids else (self._body.logprobs or 0) + 1
        return {
            self.spelled(token, before): max(logprob, FLOOR) for token, logprob in scored[:most]
        }
