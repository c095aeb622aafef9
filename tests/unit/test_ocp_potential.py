"""Outputs of a model in the unit of the labels."""

from __future__ import annotations

import pytest
import torch
from fairchem.core.modules.normalization.normalizer import Normalizer

from piwsl_ocp.ocp.potential import physical_prediction


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_denormalised_in_single_precision_at_least(dtype: torch.dtype) -> None:
    outputs = {
        "energy": torch.tensor([[1.5], [-0.25]], dtype=dtype),
        "forces": torch.tensor([[0.5, -1.0, 2.0]], dtype=dtype),
    }
    normalizers = {"energy": Normalizer(mean=1000.0, rmsd=3.0)}
    prediction = physical_prediction(outputs, normalizers)
    expected = torch.promote_types(dtype, torch.float32)
    assert prediction.energy.dtype == prediction.forces.dtype == expected
    # 1004.5 has more digits than the half-precision types.
    assert prediction.energy.tolist() == [1004.5, 999.25]
    assert torch.equal(prediction.forces, outputs["forces"].to(expected))
