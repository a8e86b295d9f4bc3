"""`python -m corpus_tools clean | preview | sample`.

Only the standard library is imported before Ctrl-C is taken care of.
"""

from __future__ import annotations

import sys

from corpus_tools.signals import KEYS, exit_at_once, leaves_behind, restore, set_handlers
from corpus_tools.windows import print_what_streams_lack


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, or 1 for unusable data (usage errors leave with 2, Ctrl-C with 130).

    Args:
        arguments: None for those of this process, which ends with the command: Ctrl-C is then taken care of until
            Python itself has ended.
    """
    given = sys.argv[1:] if arguments is None else arguments
    cleaning = given[:1] == ["clean"]
    leaves_behind(
        "an earlier corpus is unchanged, the same command takes this one up again" if cleaning else ""
    )
    before = set_handlers(KEYS, exit_at_once)
    print_what_streams_lack()
    try:
        if given[:1] == ["--version"]:
            from corpus_tools.steps.publish import package_version

            print(f"corpus-tools {package_version()}")
            return 0
        from corpus_tools.cli.commands import run

        return run(given)
    finally:
        if arguments is not None:
            restore(before)


if __name__ == "__main__":
    sys.exit(main())
