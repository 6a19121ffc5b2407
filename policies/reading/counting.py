"""How many tokens a text has, as the shipped embedder's tokenizer counts.

Knows that tokenizer's file and nothing of models. Other models' tokenizers count some per cent more
or less; what must fit a window to the token is asked of its backend.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from policies.composition.embedder import SHIPPED, TOKENIZER, EmbedderError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["EXACT", "tokens"]

EXACT = 1 << 21
"""Characters up to which a text is counted whole (0.3 s a megabyte); of a longer one, samples."""
_SAMPLES = 32
_BYTES = 8
"""Bytes that a token stands for at most. The tokenizer knows no word of more than a hundred letters
and few of Thai's: it takes either for one unknown token, which no model of today does."""

_loading = Lock()
_loaded: list[Tokenizer] = []


def tokens(text: str) -> int:
    """Tokens of a text, without any that enclose it. Raises EmbedderError if the file is missing.

    Exact up to `EXACT` characters, and never less than a token per eight bytes of UTF-8; beyond,
    told by evenly spaced samples of as many characters in all.
    """
    if len(text) <= EXACT:
        return _counted(text)
    size, last = EXACT // _SAMPLES, _SAMPLES - 1
    starts = [(len(text) - size) * at // last for at in range(_SAMPLES)]
    counted = sum(_counted(text[start : start + size]) for start in starts)
    return round(counted * len(text) / EXACT)


def _counted(text: str) -> int:
    # Half a character, as a client's JSON may spell it, is no text for the tokenizer.
    data = text.encode("utf-8", "replace")
    # A batch of one, because only a batch lets go of Python's lock.
    found = _tokenizer().encode_batch_fast([data.decode()], add_special_tokens=False)
    return max(len(found[0].ids), -(-len(data) // _BYTES))


def _tokenizer() -> Tokenizer:
    """The embedder's, without its limit of 256; loaded by the first call."""
    from tokenizers import Tokenizer

    with _loading:
        if not _loaded:
            try:
                tokenizer = Tokenizer.from_file(str(SHIPPED / TOKENIZER))
            except Exception as error:  # a bare one is all that tokenizers raises
                raise EmbedderError(f"{SHIPPED / TOKENIZER}: {error}") from error
            tokenizer.no_truncation()
            tokenizer.no_padding()
            _loaded.append(tokenizer)
        return _loaded[0]
