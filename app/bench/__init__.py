"""Benchmarks: what the gateway costs, and what policies are worth.

`pair` measures quality and cost of policies on the embedded pair (`pair_measure` runs them,
`pair_lineup` says which, `pair_rows` counts, `pair_plot` draws), `backend` how long an idle server
takes by lengths (`backend_server` is asked, `backend_measure` times, `backend_fit` fits,
`backend_report` and `backend_plot` tell), `verifier` what a verifier's faults do to sampling
(`verifier_measure`, `verifier_rows`, `verifier_plot`), `handoffs` what a hand-off costs the
gateway, `serving` how fast a policy serves (`serving_load` makes the load), `overload` what is left
of a model's throughput under too much load (`overload_measure`, `overload_plot`; `slots` is a
server of finite capacity), `embedder` what a prompt's vector costs a router, `retrieval` how good
and how fast a search in documents is, `context` how well questions about documents are judged
(`context_tasks` tells tasks, `context_value` says what that is worth, `context_refusal` counts
refusals and tokens).

`overhead` is a command line; `comparison` behind it starts everything and puts the parts together:
`throughput`, `latency`, `swaps` and `memory` of running gateways, `engine` without any socket.
`relay` is the yardstick, `rivals` are other gateways, `gateway` is Tandem; `upstream` and `load`
stand at both ends. `processes` starts, pins and observes them, `figures` says what was found.
`clients` repeats the choice of the HTTP client (decision 0001).
"""
