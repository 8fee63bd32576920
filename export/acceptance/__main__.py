"""`python -m export.acceptance`: test a GPU host's numerics and speed, and write a report.

Against a Triton that serves the graphs, as `make gpu-acceptance` starts it; or with --bare on a
host with little more than PyTorch, where nothing of Triton is imported.
"""

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one of the two; `--help` and `--bare --help` list their options."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--bare" in arguments:
        from export.acceptance.bare import acceptance

        acceptance.main([argument for argument in arguments if argument != "--bare"])
    else:
        from export.acceptance import served  # needs tritonclient

        served.main(arguments)


if __name__ == "__main__":
    main()
