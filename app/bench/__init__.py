"""Benchmarks: what the gateway costs (`overhead`) and what the embedded pair is worth (`pair`).

`overhead` is a command line; `comparison` behind it starts everything and puts the parts together:
`throughput`, `latency`, `swaps` and `memory` of running gateways, `engine` without any socket.
`relay` is the yardstick, `rivals` are other gateways, `gateway` is Tandem; `upstream` and `load`
stand at both ends. `processes` starts, pins and observes them, `figures` says what was found.
`clients` repeats the choice of the HTTP client (decision 0001).
"""
