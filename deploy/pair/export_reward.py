r"""The large model with its reward head, as a Hugging Face folder that vLLM serves.

    python -m deploy.pair.export_reward --out work/reward
    vllm serve work/reward --runner pooling --pooler-config '{"seq_pooling_type": "MEAN"}' \
        --chat-template work/reward/chat_template.jinja

Knows the files of both forms. Must not know training or serving. The weights are the large model's
own, copied; the head stands in a file of its own beside them, which vLLM reads as it reads shards.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from deploy.pair.graph import Graph
from deploy.pair.reward import load_head
from deploy.pair.tokenizer import ASSISTANT, BEGIN, END, USER

MODEL = Path(__file__).with_name("models") / "large"
COPIED = ("model.safetensors", "tokenizer.json", "special_tokens_map.json")
TEMPLATE_FILE = "chat_template.jinja"
POOLING = {"seq_pooling_type": "MEAN"}
"""vLLM's `--pooler-config`."""
TEMPLATE = (
    f"{{{{- '{BEGIN}' -}}}}\n"
    "{%- for message in messages -%}\n"
    "{%- if message.role == 'assistant' or message.role == 'document' -%}\n"
    f"{{{{- '{ASSISTANT}' + message.content -}}}}\n"
    "{%- else -%}\n"
    f"{{{{- '{USER}' + message.content + '{END}' -}}}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
)
"""For pairs (vLLM calls the roles `query` and `document`) and for chats; the answer stays open."""


def export_reward(model: Path, out: Path) -> None:
    """Write the folder. Raises ModelFilesError for a head that does not fit, or that is missing."""
    head = load_head(model, Graph(model))
    if head is None:
        raise FileNotFoundError(f"no reward head in {model}: python -m deploy.pair.train_reward")
    out.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(model / name, out / name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config |= {
        "architectures": ["LlamaForSequenceClassification"],
        "num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    tokenizer = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer.pop("chat_template", None)
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        (out / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / TEMPLATE_FILE).write_text(TEMPLATE, encoding="utf-8")
    weights = {
        "score.weight": head.weights[np.newaxis, :],
        "score.bias": np.array([head.bias], dtype=np.float32),
    }
    save_file(weights, str(out / "score.safetensors"), metadata={"format": "pt"})


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="folder with a reward head")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    export_reward(given.model, given.out)


if __name__ == "__main__":
    main()
