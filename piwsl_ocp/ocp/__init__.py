"""The room that speaks fairchem; loading it puts the stand-ins in place."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)
