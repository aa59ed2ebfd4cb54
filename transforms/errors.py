"""Errors for people: one line that names the place and the fix, never with a record's text."""

import re
from typing import Any


class MillraceError(Exception):
    """A failure that the reader can fix; the CLI prints it without a traceback."""

    @classmethod
    def anchor(cls) -> str:
        """Name the place in docs/reference/errors.md that explains errors of this kind.

        >>> NoFilesError.anchor(), MillraceError.anchor()
        ('no-files', 'millrace')
        """
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__.removesuffix("Error")).lower()


class SettingsError(MillraceError):
    """An environment variable has a value that its setting cannot have."""


class SourceError(MillraceError):
    """A source file, or the data it points to, cannot be used."""


class NoFilesError(SourceError):
    """A source points to no file."""


class GapError(SourceError):
    """Rows of a stream are lost: they are no longer there, and raw does not have them."""


class FileRefusedError(MillraceError):
    """One source file cannot be read at all; the others can."""


class PostError(MillraceError):
    """A post of records cannot be taken as it is."""


class GateError(MillraceError):
    """Rows broke their relation's contract, so none of them was committed."""


class LoadStoppedError(GateError):
    """A load as a whole is not what its source allows, so nothing of it was committed.

    `payload` describes it to programs: the source, the load and what was found.
    """

    def __init__(self, message: str, payload: dict[str, Any] | None = None) -> None:
        """Take the line for people and the payload."""
        super().__init__(message)
        self.payload = payload or {}


class ChecksError(LoadStoppedError):
    """A check stops a load.

    Nearly all of it is rejected, its keys or dates are read wrongly, or its ids belong to another
    source.
    """


class DriftError(LoadStoppedError):
    """A load differs too much from the loads before it, so nothing of it was committed."""


class LineageError(MillraceError):
    """A feature value does not follow from its records."""


class StaleError(MillraceError):
    """Views were asked for that have not been brought up to date as lately as they promise."""


class ConsistencyError(MillraceError):
    """Values were served that are not what a training set says of their instants."""


class OrchestratorError(MillraceError):
    """Prefect cannot be reached."""


class EngineError(MillraceError):
    """The engine that was chosen cannot be used, or its workers keep ending."""


class HomeError(MillraceError):
    """The home cannot be used: it is not writable, or is still empty."""


class BackupError(MillraceError):
    """A home cannot be backed up, or a backup cannot be restored."""


class InstantError(MillraceError, ValueError):
    """A value is not an instant, or can be read as more than one."""


class RefusedTextError(MillraceError, ValueError):
    """A text in a request that a run would quarantine, or would not know how to treat."""


class DerivedError(MillraceError):
    """A feature's expression over other features cannot be computed."""


class ErasureError(MillraceError):
    """An erasure is impossible, or did not finish."""


class SchemaChangedError(MillraceError):
    """The fields of a frozen source have changed, and nobody has accepted the change."""


class CorrectionError(MillraceError):
    """A file of corrections cannot be imported as it is."""


class BreakingChangeError(MillraceError):
    """Published features were removed or retyped, and nobody has accepted the change."""


class DeclarationError(MillraceError):
    """A feature, an entity or a service is not declared as it must be."""


class FeatureNameError(MillraceError, ValueError):
    """A feature, a view or a service is asked for that the home's registry does not have."""


class QueryError(MillraceError):
    """A query cannot be run on a home."""


class QuestionError(MillraceError):
    """A training set is asked for in a way that has no answer, or one that would leak."""
