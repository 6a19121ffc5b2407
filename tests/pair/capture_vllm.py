"""Ask a real vLLM what `vllm_answers.json` asks, and write down what it says.

    python -m vllm.entrypoints.openai.api_server --model deploy/pair/models/large --port 8101 \
        --served-model-name large --enable-auto-tool-choice --tool-call-parser hermes
    python -m tests.pair.capture_vllm http://127.0.0.1:8101

`test_dialect` compares the shapes of these answers with the pair's own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx

FILE = Path(__file__).with_name("vllm_answers.json")


def ask(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Status and answer; a stream's answer is the list of its events."""
    response = client.post(path, json=body)
    if response.headers["content-type"].startswith("text/event-stream"):
        lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        events = [json.loads(line) if line != "[DONE]" else line for line in lines]
        return {"status": response.status_code, "answer": events}
    return {"status": response.status_code, "answer": response.json()}


def main() -> None:
    """Renew the file, request by request."""
    cases = json.loads(FILE.read_text(encoding="utf-8"))
    with httpx.Client(base_url=sys.argv[1], timeout=60) as client:
        for case in cases.values():
            case.update(ask(client, case["path"], case["body"]))
    lines = [f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
