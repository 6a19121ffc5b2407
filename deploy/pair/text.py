"""Text in, tokens out, and back: encoding, single tokens, and answers as they arrive.

Knows one tokenizer (a `tokenizer.json`). Must not know models, sampling or HTTP. The rule of
`TextStream`: it hands out whole characters only, and never a character that may still turn out to
belong to a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

# What a decoder writes for bytes that are not (yet) a character.
_BROKEN = "\ufffd"
# A UTF-8 character has at most four bytes, so at most four tokens.
_LONGEST_CHARACTER = 4


@dataclass(frozen=True, slots=True)
class Stopping:
    """When an answer ends, beside its end-of-sequence token."""

    max_tokens: int
    min_tokens: int = 0
    strings: tuple[str, ...] = ()
    token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    include_string: bool = False


class Codec:
    """A tokenizer file and the few questions asked of it; `longest` token, in characters."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():  # tokenizers would raise a bare Exception
            raise FileNotFoundError(f"no {file.name} in {file.parent}")
        self.tokenizer = Tokenizer.from_file(str(file))
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self._alone = self.tokenizer.decode_batch(
            [[token] for token in range(size)], skip_special_tokens=False
        )
        self.longest = max(map(len, self._alone))

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids; with `special` the tokenizer may add its own (such as a leading BOS)."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, tokens: Sequence[int], skip_special: bool = False) -> str:
        """Text of these tokens; ids without an entry are left out."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=skip_special)
        return text

    def piece(self, token: int) -> str | None:
        """The vocabulary's own spelling of a token."""
        piece: str | None = self.tokenizer.id_to_token(token)
        return piece

    def token_text(self, token: int, before: Sequence[int] = ()) -> str:
        """One token's text, as logprob reports show it.

        A token that completes a character begun by the tokens `before` gets the whole character;
        one that leaves a character unfinished gets "". So the texts of all tokens join up.
        """
        if not self._is_broken(token):
            return self._alone[token] if token < len(self._alone) else ""
        for count in range(1, min(len(before), _LONGEST_CHARACTER) + 1):
            context = list(before[-count:])
            whole = self.decode([*context, token])
            if whole.endswith(_BROKEN):
                continue
            while context and self._is_broken(context[-1]):
                context.pop()
            return whole.removeprefix(self.decode(context))
        return ""

    def _is_broken(self, token: int) -> bool:
        """Whether it leaves a character unfinished, or finishes one begun before."""
        return token < len(self._alone) and self._alone[token].endswith(_BROKEN)


class TextStream:
    """The text of one answer while its tokens arrive."""

    def __init__(
        self, codec: Codec, prompt: Sequence[int], stopping: Stopping, skip_special: bool
    ) -> None:
        self._tokenizer = codec.tokenizer
        self._decoder = DecodeStream(ids=list(prompt), skip_special_tokens=skip_special)
        self._skip_special = skip_special
        self._stopping = stopping
        held = 0 if stopping.include_string else max(map(len, stopping.strings), default=1) - 1
        self._held = held
        self._shown = 0
        self.text = ""

    def add(self, token: int, may_stop: bool) -> str | None:
        """Append a token's text; the stop string that it completed, if any (and `may_stop`)."""
        new = self._decode(token)
        self.text += new
        if not (new and may_stop and self._stopping.strings):
            return None
        found = [
            (start + len(string), order, start, string)
            for order, string in enumerate(self._stopping.strings)
            if (start := self._find(string, len(new))) >= 0
        ]
        if not found:
            return None
        end, _, start, string = min(found)  # the one that was complete first
        self.text = self.text[: end if self._stopping.include_string else start]
        return string

    def take(self, ended: bool) -> str:
        """What can be shown now and was not shown before."""
        until = len(self.text) - (0 if ended else self._held)
        if until <= self._shown:
            return ""
        shown, self._shown = self._shown, until
        return self.text[shown:until]

    def _find(self, string: str, new: int) -> int:
        return self.text.find(string, max(0, len(self.text) - new - len(string) + 1))

    def _decode(self, token: int) -> str:
        try:
            return self._decoder.step(self._tokenizer, token) or ""
        except Exception:  # noqa: BLE001
            # tokenizers raises a bare Exception ("Invalid prefix encountered") after some invalid
            # UTF-8 and is then stuck; begin anew, as vLLM does (vllm issue 17448).
            self._decoder = DecodeStream(skip_special_tokens=self._skip_special)
            return self._decoder.step(self._tokenizer, token) or ""
