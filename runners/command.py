"""How a command ends: what a user can mend gets one line, and Ctrl-C is no fault."""

import functools
import os
import sys
from collections.abc import Callable, Sequence

from runners.config import ConfigError

Main = Callable[[list[str]], int]


def again(arguments: Sequence[str]) -> str:
    """What to do after a stop, for a command with these ``arguments``."""
    forced = "force=true" in arguments  # which would start over
    return f"the same command{' without force=true' if forced else ''} goes on from here"


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of a long text; some say nothing."""
    return (str(error).splitlines() or [""])[0]


def print_help(main: Main) -> int:
    print((sys.modules[main.__module__].__doc__ or "").strip())
    return 0


def command(main: Main) -> Callable[..., int]:
    """`ending`, and its module's docstring is the help."""

    @functools.wraps(main)
    def helpful(arguments: list[str]) -> int:
        if any(a in ("-h", "--help") for a in arguments):
            return print_help(main)
        return main(arguments)

    return ending(helpful)


def ending(main: Main) -> Callable[..., int]:
    """Of a ``main`` of arguments: the same with the exit codes 2 (bad input) and 130 (Ctrl-C).

    ``main`` gets the command line where nothing is given.
    """

    @functools.wraps(main)
    def ended(arguments: list[str] | None = None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
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
            print(f"interrupted; {again(arguments)}", file=sys.stderr)
            return 130

    return ended
