"""Counting the innermost frames of py-spy's stacks."""

from loadtest.bench.flame_graph import leaves


def test_leaves_drop_line_numbers_and_the_path_to_site_packages() -> None:
    stacks = """main (a.py:1);read (/venv/lib/python3.11/site-packages/PIL/Image.py:12) 3
read (/venv/lib/site-packages/PIL/Image.py:99) 2
sleep (libc.so) 1
"""
    assert leaves(stacks) == {"read (PIL/Image.py)": 5, "sleep (libc.so)": 1}
