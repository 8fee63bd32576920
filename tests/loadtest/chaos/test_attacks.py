"""The short form of every attack of `make chaos`: its limits hold.

`make chaos-short` runs those that CI runs, one after the other: beside other tests they would load
the cores of these.

Limits on time and goodput are left to `make chaos`, on an otherwise idle machine; here these
figures need only be finite.
"""

import math

import pytest

from loadtest.chaos.__main__ import ATTACKS
from loadtest.chaos.attack import Attack, Row

pytestmark = pytest.mark.bench


def depends_on_the_machine(row: Row) -> bool:
    return row.unit == " s" or row.name.endswith(("_goodput", "_ratio"))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_in_short_form_holds_its_limits(attack: Attack) -> None:
    rows = list(attack.rows(short=True))
    assert [row.cells() for row in rows if not row.holds and not depends_on_the_machine(row)] == []
    assert [row.cells() for row in rows if not math.isfinite(row.value)] == []
    assert sum(row.limit is not None for row in rows) >= 3
