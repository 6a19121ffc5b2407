"""How property tests run here: without deadlines, since two test processes share a slow machine,
and, where `CI` is set, with the same examples every time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def load() -> None:
    """Use the profile for every property test that is collected after this."""
    settings.register_profile(
        "tandem",
        deadline=None,
        derandomize=bool(os.environ.get("CI")),
        suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no fault of a strategy
    )
    settings.load_profile("tandem")
