"""The routing core: it decides, drives and counts, and knows no web framework.

Reading order: `steps` (the vocabulary), `phrases` (what policies say with it), `engine` (the only
code that waits), `call` and `upstream` (one call to one backend), `pool`, `breaker` and `fleet`
(which backend, and how it is doing), `wire` (OpenAI's JSON and SSE, pure), `config` and
`revisions` (what is running, and how it is replaced), `observe` and `cost` (what is told).

This package imports neither Starlette nor FastAPI nor prometheus_client; `app` plugs those in from
outside, and `policies` see only `steps`, `phrases` and the `Fleet` type.
"""
