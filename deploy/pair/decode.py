"""Greedy and teacher-forced passes over many prompts at once, with transformers' own Llama.

Knows the shipped Hugging Face files and nothing else, so that what is measured is what is shipped.
Must not know the training code. Rows of one prompt length are decoded together: no padding, hence
no masks, and the numbers are those of a single request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from deploy.pair.tokenizer import END, SPECIAL_ID, load_tokenizer

LONGEST_ANSWER = 200  # the longest solution has 150 tokens; a runaway is cut here
ROWS = 256  # rows decoded together


@dataclass(slots=True)
class Speaker:
    """A shipped model with its tokenizer."""

    model: LlamaForCausalLM
    tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered conversation."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


def load_speaker(folder: Path, dtype: torch.dtype) -> Speaker:
    """A model folder, run in this precision."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
    model.eval()
    return Speaker(model, load_tokenizer(folder))


def _groups(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt)].append(number)
    return [
        numbers[start : start + ROWS]
        for numbers in by_length.values()
        for start in range(0, len(numbers), ROWS)
    ]


@torch.inference_mode()
def greedy(speaker: Speaker, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each prompt's greedy answer, the end token included when it came."""
    answers: list[list[int]] = [[] for _ in prompts]
    for numbers in _groups(prompts):
        ids = torch.tensor([list(prompts[number]) for number in numbers])
        for number, answer in zip(numbers, _greedy_rows(speaker.model, ids), strict=True):
            answers[number] = answer
    return answers


def _greedy_rows(model: LlamaForCausalLM, ids: Tensor) -> list[list[int]]:
    end = SPECIAL_ID[END]
    written: list[Tensor] = []
    ended = torch.zeros(len(ids), dtype=torch.bool)
    past = None
    for _ in range(LONGEST_ANSWER):
        output = model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = output.past_key_values
        ids = output.logits[:, -1].argmax(-1, keepdim=True)
        written.append(ids)
        ended |= ids[:, 0] == end
        if bool(ended.all()):
            break
    rows: list[list[int]] = torch.cat(written, dim=1).tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


@torch.inference_mode()
def predictions(
    speaker: Speaker, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[list[int]]:
    """What the model would write greedily at every place of the given answers."""
    predicted: list[list[int]] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = speaker.model(torch.tensor([[*prompt, *answer]])).logits[0]
        predicted.append(logits[len(prompt) - 1 : -1].argmax(-1).tolist())
    return predicted
