"""How a command ends: what a user can mend gets one line, and Ctrl-C is no fault."""

import functools
import sys
from collections.abc import Callable

from runners.config import ConfigError
from runners.run import again


def command(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Of a ``main`` of arguments: the same with the exit codes 2 (bad input) and 130 (Ctrl-C)."""

    @functools.wraps(main)
    def ended(arguments: list[str] | None = None) -> int:
        try:
            return main(arguments)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"interrupted; {again(arguments or sys.argv)}", file=sys.stderr)
            return 130

    return ended
