"""The profile of the property tests in this folder."""

from __future__ import annotations

from tests.hypothesis_profiles import load

load()
