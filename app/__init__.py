"""The HTTP edge: what clients and operators connect to. It decides nothing about routing.

`gateway` is the clients' API, a raw ASGI application on the hot path; `admin` the operators', on a
listener of its own; `serve` puts both together with `router`, `policies` and the listeners
(`metrics`, `log`, `keys`); `embedded` starts the pair that is there when nothing is configured.
"""
