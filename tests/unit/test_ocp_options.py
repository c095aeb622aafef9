"""The options under `optim.piwsl` are checked before anything runs."""

from __future__ import annotations

import pytest

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.options import PIWSLOptions, nearest

OUTPUTS = {"energy": {"level": "system"}, "forces": {"level": "atom"}}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"trems": {"pitc": 1.0}}, "optim.piwsl.trems: unknown key, did you mean 'terms'?"),
        ({"terms": {"pict": 1.0}}, "did you mean 'pitc'"),
        ({"terms": {"pitc": "much"}}, "optim.piwsl.terms.pitc: found 'much'"),
        ({"terms": {"pitc": -1.0}}, "-1.0"),
        ({"terms": {"pitc": float("nan")}}, "nan"),
        ({"terms": ["pitc"]}, "optim.piwsl.terms"),
        ({"displacement": {"epsilon_max_angstrom": -0.1}}, "-0.1"),
        ({"displacement": {"epsilon": 0.1}}, "optim.piwsl.displacement.epsilon: unknown key"),
        ({"displacement": {"name": "unifrom"}}, "did you mean 'uniform'"),
        ({"metric": "rmse"}, "mse"),
        ({"every_probability": 0.0}, "every_probability"),
        ({"target_scale": "std"}, "optim.piwsl.target_scale: found 'std'"),
        ({"energy_unit": "kcal"}, "did you mean 'kcal/mol'?"),
        ({"consistency_epsilon_angstrom": 0.0}, "consistency_epsilon_angstrom"),
        (["pitc"], "expected a mapping"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(section: object, said: str) -> None:
    with pytest.raises(UserError) as caught:
        PIWSLOptions.parse(section, OUTPUTS)
    message = str(caught.value)
    assert message.startswith("optim.piwsl")
    assert said in message
    assert "\n" not in message


def test_weak_terms_without_predicted_forces_are_refused() -> None:
    with pytest.raises(UserError, match="needs predicted forces"):
        PIWSLOptions.parse({"terms": {"pitc": 1.0}}, {"energy": {}})


def test_no_section_means_supervised() -> None:
    options = PIWSLOptions.parse(None, OUTPUTS)
    assert options.terms == {}
    assert options.objective.terms == {}


def test_every_documented_option_reaches_the_objective() -> None:
    section = {
        "terms": {"pitc": 1.2, "pisc": 1},
        "displacement": {
            "name": "unit",
            "epsilon_max_angstrom": 0.03,
            "atom_fraction": 0.5,
        },
        "metric": "mae",
        "every_probability": 0.25,
    }
    objective = PIWSLOptions.parse(section, OUTPUTS).objective
    assert dict(objective.terms) == {"pitc": 1.2, "pisc": 1.0}
    assert objective.displacement.name == "unit"
    assert objective.displacement.epsilon_max_angstrom == 0.03
    assert objective.displacement.atom_fraction == 0.5
    assert (objective.metric, objective.every_probability) == ("mae", 0.25)


def test_a_far_off_name_gets_the_list() -> None:
    assert nearest("zzz", ["pitc", "pisc"]) == ", expected one of pitc, pisc"
