"""Order of the tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of the whole service first: their files take the longest, and share out worst."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/system/"))
