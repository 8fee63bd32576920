"""The short form of every attack of `make chaos`: its limits hold.

Those in IN_CI run with all tests, the others with `-m bench`.

Limits on time and goodput are left to `make chaos`, on an otherwise idle machine; here these
figures need only be finite.
"""

import math

import pytest

from loadtest.chaos.__main__ import ATTACKS
from loadtest.chaos.attack import Attack, Row

IN_CI = {"environment", "local_user", "readers", "stampede", "watchers"}


def depends_on_the_machine(row: Row) -> bool:
    return row.unit == " s" or row.name.endswith(("_goodput", "_ratio"))


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(
            attack, id=attack.name, marks=[] if attack.name in IN_CI else pytest.mark.bench
        )
        for attack in ATTACKS
    ],
)
def test_attack_in_short_form_holds_its_limits(attack: Attack) -> None:
    rows = list(attack.rows(short=True))
    assert [row.cells() for row in rows if not row.holds and not depends_on_the_machine(row)] == []
    assert [row.cells() for row in rows if not math.isfinite(row.value)] == []
    assert sum(row.limit is not None for row in rows) >= 3
