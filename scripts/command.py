"""How a command ends: what a user can mend gets one line, and Ctrl-C is no fault."""

import functools
import os
import sys
from collections.abc import Callable

from runners.config import ConfigError
from runners.run import again


def command(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Of a ``main`` of arguments: the same with the exit codes 2 (bad input) and 130 (Ctrl-C)."""

    @functools.wraps(main)
    def ended(arguments: list[str] | None = None) -> int:
        try:
            code = main(arguments)
            sys.stdout.flush()
            return code
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except BrokenPipeError:  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            if error.filename is None:
                raise
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"interrupted; {again(arguments or sys.argv)}", file=sys.stderr)
            return 130

    return ended
