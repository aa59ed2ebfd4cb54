"""Errors a person is meant to read: one line that names the place and the mend. None carries a record's text."""

from typing import Any


class MillraceError(Exception):
    """Any failure with a cause that the reader can mend; the CLI prints it without a traceback."""


class SourceError(MillraceError):
    """A source file, or what it points to, cannot be used."""


class NoFilesError(SourceError):
    """There is no file where a source points to."""


class FileRefusedError(MillraceError):
    """One source file cannot be read as a whole; its neighbours can."""


class GateError(MillraceError):
    """Rows broke their relation's contract, so nothing of them was committed."""


class LoadStoppedError(GateError):
    """A load as a whole is not what its source allows, so nothing of it was committed.

    `payload` tells it to programs: the source, the load and what was found.
    """

    def __init__(self, message: str, payload: dict[str, Any] | None = None) -> None:
        """Take the line for people, and the payload."""
        super().__init__(message)
        self.payload = payload or {}


class ChecksError(LoadStoppedError):
    """A check stops a load: nearly all of it is rejected, its keys or dates are read wrongly, or its ids are another source's."""


class DriftError(LoadStoppedError):
    """A load differs from the loads before it by more than its source allows, so nothing of it was committed."""


class LineageError(MillraceError):
    """A feature value is not what its records make it."""


class OrchestratorError(MillraceError):
    """Prefect cannot be reached."""


class HomeError(MillraceError):
    """The home cannot be used: not writable, or nothing there yet."""


class InstantError(MillraceError, ValueError):
    """What was given as an instant is none that can be read in one way only."""


class DerivedError(MillraceError):
    """A feature's expression over other features cannot be computed."""


class ErasureError(MillraceError):
    """What is to be erased cannot be, or was not."""


class SchemaChangedError(MillraceError):
    """The fields of a frozen source have changed, and nobody has accepted that."""


class CorrectionError(MillraceError):
    """A file of corrections cannot be taken as it is."""


class BreakingChangeError(MillraceError):
    """Features that are published were removed or retyped, and nobody has accepted that."""


class DeclarationError(MillraceError):
    """A feature, an entity or a service is not declared as it must be."""
