"""Models that fairchem lacks; loading this room puts the stand-ins in place."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)
