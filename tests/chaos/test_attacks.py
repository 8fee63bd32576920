"""The short form of every attack of `make chaos`: what must hold, holds."""

import pytest

from loadtest.chaos.__main__ import ATTACKS
from loadtest.chaos.attack import Attack


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_what_must_hold_holds(attack: Attack) -> None:
    rows = list(attack.rows(short=True))
    assert [row.cells() for row in rows if not row.holds] == []
    assert sum(row.limit is not None for row in rows) >= 3
