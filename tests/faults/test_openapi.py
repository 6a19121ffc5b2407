"""Both APIs as their OpenAPI documents tell them, by Schemathesis: no 5xx, and as it is written."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Table
from tests.faults.report import Row
from tests.faults.served import served
from tests.running import config
from tests.scripted import Backend

EXAMPLES = 60
"""Of each operation, in the part that draws them."""
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance", "use_after_free",
    "ensure_resource_availability",
)  # fmt: skip
SUMMARY = re.compile(r"(\d+) generated, (\d+) passed")
FALLBACK = {"use": "fallback", "targets": ["small", "large"]}

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


@pytest.mark.parametrize("api", ["/v1", "/admin"])
async def test_it_is_as_it_says(
    api: str, small: Backend, large: Backend, tmp_path: Path, table: Table
) -> None:
    pytest.importorskip("schemathesis", reason="make faults installs it")
    tree = config(
        {"small": small, "large": large},
        policies={"auto": FALLBACK},
        corpora={"folder": "corpora"},
        decisions={"file": "decisions.jsonl"},
        limits={"client": 10, "deadline": 20},
    )
    async with served(tree, tmp_path) as gateway:
        v1, admin = f"{gateway.url}/openapi.json", f"{gateway.admin}/admin/openapi.json"
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).parent / "schemathesis"), "run"),
            *(v1 if api == "/v1" else admin, "--seed", "6", "--checks", ",".join(CHECKS)),
            *("--max-examples", str(EXAMPLES), "--request-timeout", "30", "--no-shrink"),
            *("--continue-on-failure", "--warnings", "off", "--no-color"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        said = (await process.communicate())[0].decode(errors="replace")
        broke = gateway.said.count("Traceback")
    cases = SUMMARY.search(said)
    happened = f"{int(cases[1]):,} requests, all as documented" if cases else "see the log"
    good = process.returncode == 0 and not broke
    promised = "no 5xx, and every answer as the document says"
    verdict = "kept" if good else "WRONG"
    table(Row("Schemathesis", f"requests drawn from {api}", promised, verdict, happened))
    assert good, said[-5000:]
