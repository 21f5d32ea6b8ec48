"""Errors that name the place, what was expected, what was found, and what to do about it.

Every error that a user can cause is a :class:`FFLUXError`.  Its text is one line, so that the command line can print
it as it stands; ``exit_code`` is what the command ends with.
"""

from __future__ import annotations


class FFLUXError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    where
        The argument, file, ``file:line`` or key that is wrong.
    expected
        What had to stand there.
    found
        What stands there.
    remedy
        What the user can do.  Optional, for the rare case in which nothing helps.
    """

    exit_code = 2

    def __init__(self, where: str, expected: str, found: str, remedy: str = "") -> None:
        self.where = where
        self.expected = expected
        self.found = found
        self.remedy = remedy
        text = f"{where}: expected {expected}, found {found}"
        super().__init__(" ".join((f"{text}; {remedy}" if remedy else text).split()))

    def __reduce__(self) -> tuple[type[FFLUXError], tuple[str, str, str, str]]:
        # An exception is rebuilt from ``args``, its text; a worker process has to hand over the parts.
        return type(self), (self.where, self.expected, self.found, self.remedy)


class InputError(FFLUXError):
    """A wrong argument of a function or a command."""


class FileFormatError(FFLUXError):
    """A file that cannot be read as what it should be."""


class GeometryError(FFLUXError):
    """A geometry on which the requested quantity is not defined (coinciding atoms, a linear local frame)."""


class ModelMismatchError(FFLUXError):
    """A model, data set and molecule that do not belong together."""


class ConvergenceError(FFLUXError):
    """An iterative method (SCF, optimiser, Cholesky with jitter) that did not converge."""

    exit_code = 3


class MissingDependencyError(FFLUXError):
    """An optional package that the requested step needs is not installed."""


class FFLUXWarning(UserWarning):
    """Base of all warnings of this package; the command line prints each once, as one line on standard error."""


class InputWarning(FFLUXWarning):
    """Something in the input bears a meaning and is not used, or is used by a choice that is worth a word."""


class ReorderedAtomsWarning(FFLUXWarning):
    """The atoms are not in the model's order or hand; they were matched, and results are in their own."""


class SimulationStopped(FFLUXError):
    """Molecular dynamics ended before its last step because a guard tripped (bond, contact, not-a-number)."""

    exit_code = 4
