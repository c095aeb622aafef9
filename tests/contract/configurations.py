"""What the tests of wrong and right values in a configuration share."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.config import check_config

#: Values by dotted key, and a model -> a valid configuration with these values.
Configuration = Callable[..., dict[str, Any]]

NORMALIZER = "dataset.train.transforms.normalizer"
REFERENCES = "dataset.train.transforms.element_references"


def refusal(config: dict[str, Any]) -> str:
    """Return the one line that a configuration is refused with, which is not changed."""
    before = deepcopy(config)
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert str(config) == str(before)
    message = str(caught.value)
    assert "\n" not in message
    return message


def loss(**options: Any) -> list[dict[str, Any]]:
    """Return the section of one supervised loss."""
    return [{"energy": {"fn": "mae", "coefficient": 1, **options}}]
