"""All boards, in the order in which one looks at them."""

from __future__ import annotations

from deploy.grafana.fleet import FLEET
from deploy.grafana.overview import OVERVIEW
from deploy.grafana.policies import POLICIES
from deploy.grafana.savings import SAVINGS

__all__ = ["BOARDS"]

BOARDS = (OVERVIEW, SAVINGS, POLICIES, FLEET)
