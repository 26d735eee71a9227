"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# On a busy machine a slow example is no finding. In CI the same commit gives the same verdict; elsewhere each run looks
# at new examples.
settings.register_profile("moltis", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("moltis")
