"""Grafana dashboards of the gateway, built from code; Grafana reads only the JSON that comes out.

`python -m deploy.grafana` (`make dashboards`) writes the folder `dashboards` anew. Each board is a
module of data: panels with their queries, units, limits, and a sentence on what to do. `panel` says
what a panel is, `board` puts panels together, and only these two know Grafana's library, which is a
tool of development. Nothing here knows the gateway: what it exports is held against every query by
`tests/dashboards`.
"""
