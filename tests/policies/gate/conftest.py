"""Both array libraries: numpy, and torch where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from policies.gate.arrays import Arrays


@pytest.fixture(params=["numpy", "torch"], scope="session")
def arrays(request: pytest.FixtureRequest) -> Arrays:
    if request.param == "numpy":
        return Arrays(np)
    torch = pytest.importorskip("torch", reason="needs the train extra")
    return Arrays(torch, torch.device("cpu"))
