"""The pair's one tokenizer: byte-level BPE, every digit a token of its own, 512 entries in all.

`python -m deploy.pair.tokenizer FOLDER ...` fits it on the generator's text and writes its files.
Knows the special tokens, how text is split, and the chat template. Must not know torch or how the
models are built. Any UTF-8 text round-trips, because all 256 bytes are in the vocabulary.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from deploy.pair.problems import gradings, problems

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
SYSTEM, USER, ASSISTANT, TOOL = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"
GATE = "<|gate|>"
SPECIALS = (
    PAD,
    BEGIN,
    END,
    SYSTEM,
    USER,
    ASSISTANT,
    TOOL,
    GATE,
    *(f"<|reserved_{number}|>" for number in range(4)),
)
SPECIAL_ID = {token: number for number, token in enumerate(SPECIALS)}

# 256 bytes + 12 specials leave 244 merges: enough for the steps' words and most of the stories'.
VOCABULARY_SIZE = 512
CONTEXT = 4096

# A digit alone; a word or sign that leads up to a digit takes the space between with it (" add 3",
# ": 4"), so that numbers cost one token a digit and nothing more; then words and signs with their
# leading space; a newline sticks to the sign before it.
_SPLIT = (
    r"[0-9]"
    r"|(?: ?\p{L}+| ?[^\s\p{L}0-9]+) (?=[0-9])"
    r"| ?\p{L}+"
    r"| ?[^\s\p{L}0-9]+\n?"
    r"|\s"
)

CHAT_TEMPLATE = """\
{%- macro written(content) -%}
{%- if content is string -%}
{{- content -}}
{%- elif content is not none and content is iterable -%}
{%- for part in content -%}
{%- if part is string -%}
{{- part -}}
{%- elif part.type == 'text' or part.type == 'input_text' or part.type == 'output_text' -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- '<|begin|>' -}}
{%- set first = messages[0] if messages else none -%}
{%- set led = first is not none and (first.role == 'system' or first.role == 'developer') -%}
{%- if tools -%}
{{- '<|system|>' -}}
{%- if led -%}{{- written(first.content) + '\\n' -}}{%- endif -%}
{{- 'Tools:' -}}
{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '<|end|>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if loop.first and led and tools -%}
{%- elif message.role == 'system' or message.role == 'developer' -%}
{{- '<|system|>' + written(message.content) + '<|end|>' -}}
{%- elif message.role == 'assistant' -%}
{{- '<|assistant|>' + written(message.content) -}}
{%- if message.tool_calls -%}
{%- for call in message.tool_calls -%}{{- '\\n' + (call.function | tojson) -}}{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- elif message.role == 'tool' or message.role == 'function' -%}
{{- '<|tool|>' + written(message.content) + '<|end|>' -}}
{%- else -%}
{{- '<|user|>' + written(message.content) + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Fit the merges on these texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_one_token_grades(tokenizer)


def _with_one_token_grades(tokenizer: Tokenizer) -> Tokenizer:
    """Make `yes` and `no` one token each: a grade is asked for with `max_tokens=1`.

    They occur too rarely to be found by fitting. They take the places of two merges that only the
    0-9 request needs and that no other merge builds on.
    """
    state = json.loads(tokenizer.to_str())
    merges, vocabulary = state["model"]["merges"], state["model"]["vocab"]
    for unneeded, parts in ((").", ["y", "es"]), ("bad", ["n", "o"])):
        number = next(at for at, (left, right) in enumerate(merges) if left + right == unneeded)
        merges[number] = parts
        vocabulary["".join(parts)] = vocabulary.pop(unneeded)
    return Tokenizer.from_str(json.dumps(state))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer as shipped in a model folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write every tokenizer file that transformers and vLLM look for."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **named,
        "additional_special_tokens": [token for token in SPECIALS if token not in named.values()],
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", named)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def render(turns: Sequence[tuple[str, str]]) -> str:
    """Roles and texts as the chat template renders them (training's own, faster path)."""
    return BEGIN + "".join(f"<|{role}|>{text}{END}" for role, text in turns)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def fitting_texts() -> Iterator[str]:
    """What the merges are fitted on: problems, gradings, and the small talk many times over."""
    talk = json.loads(Path(__file__).with_name("smalltalk.json").read_text(encoding="utf-8"))
    for _ in range(80):  # small talk is short: weigh it so that its words get merges too
        for topic in talk:
            yield from topic["asks"]
            yield from topic["answers"] * 4
    for grading in gradings(1, 4_000):
        yield grading.prompt
    for problem in problems(2, 12_000):
        yield problem.prompt
        yield problem.solution


def main() -> None:
    """Fit once, write to every folder named."""
    parser = argparse.ArgumentParser(description="Fit the pair's tokenizer and write its files.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    tokenizer = train_tokenizer(fitting_texts())
    for folder in parser.parse_args().folders:
        save_tokenizer(tokenizer, folder)


if __name__ == "__main__":
    main()
