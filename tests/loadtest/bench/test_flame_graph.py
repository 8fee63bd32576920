"""The leaves of py-spy's stacks are told by where they are."""

from loadtest.bench.flame_graph import leaves


def test_leaves_are_counted_without_lines_and_the_way_there() -> None:
    stacks = """main (a.py:1);read (/venv/lib/python3.11/site-packages/PIL/Image.py:12) 3
read (/venv/lib/site-packages/PIL/Image.py:99) 2
sleep (libc.so) 1
"""
    assert leaves(stacks) == {"read (PIL/Image.py)": 5, "sleep (libc.so)": 1}
