"""`python -m export.acceptance`: does a GPU do what the checkpoint does, and how fast? Writes a report.

Beside a Triton that serves the graphs, as `make gpu-acceptance` starts it; or with --bare on a host that
has PyTorch and not much more. The second imports nothing of Triton.
"""

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run the acceptance that the arguments ask for; `--help` and `--bare --help` list the options."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--bare" in arguments:
        from export.acceptance.bare import acceptance

        acceptance.main([argument for argument in arguments if argument != "--bare"])
    else:
        from export.acceptance import served  # needs tritonclient

        served.main(arguments)


if __name__ == "__main__":
    main()
