"""Traces and metrics by OpenTelemetry, in its conventions for generative AI; off by default.

`tracing` is the listener: it gives each request its place in a trace and hands what is over to a
thread. That thread makes spans (`spans`) and counts (`measures`), in the words of `words`; `export`
sets OpenTelemetry's own library up, from its own environment variables. Only `spans`, `measures`
and `export` import that library, which is an extra, and they are imported when it is asked for.
"""
