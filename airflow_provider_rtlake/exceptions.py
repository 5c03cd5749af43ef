"""Every error that the package raises on purpose.

A *transient* error may pass by itself: Airflow's retries are the remedy. A *terminal* one needs a person: operators
turn it into ``AirflowFailException`` so that no retry is wasted. A :class:`UserError` is a mistake in something that a
user wrote; the command line prints its message and nothing else.
"""

from __future__ import annotations


class RtlakeError(Exception):
    """Base of every error of this package."""


class TransientError(RtlakeError):
    """May pass when tried again."""


class TerminalError(RtlakeError):
    """Will fail again in the same way until somebody changes something."""


class UserError(TerminalError):
    """A user's mistake: the message names the place, what is wrong and what to do."""


class DeclarationError(UserError):
    """One or more mistakes in declarations.

    :param problems: one line each: ``file: key: what is wrong; what to do``.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ServiceError(RtlakeError):
    """A service answered with an error.

    :param service: the service's name, such as ``Kafka Connect``.
    :param message: what went wrong, with the server's own words.
    :param status: HTTP status, or None where no answer came.
    :param body: the answer's body, secrets masked.
    """

    def __init__(self, service: str, message: str, *, status: int | None = None, body: str = "") -> None:
        super().__init__(f"{service}: {message}")
        self.service = service
        self.status = status
        self.body = body


class ServiceUnavailable(ServiceError, TransientError):
    """No answer, or one that says to come back later."""


class RequestRefused(ServiceError, TerminalError):
    """The service understood the request and refuses it."""


class NotFound(RequestRefused):
    """The thing asked for does not exist."""


class Conflict(RequestRefused):
    """The thing changed meanwhile, or exists already."""


class ConnectorConfigInvalid(RequestRefused):
    """The connector's plugin refuses the configuration."""


class ConnectorFailed(ServiceError, TerminalError):
    """A connector or one of its tasks is FAILED; the message carries the trace."""


class JobFailed(ServiceError, TerminalError):
    """A Flink job ended in failure; the message carries its root exception."""


class JobNotFound(NotFound):
    """Flink knows no such job."""


class StatementFailed(ServiceError, TerminalError):
    """The SQL gateway refused or failed a statement."""


class ReferenceConflict(Conflict):
    """Nessie refuses a merge: the target changed the same tables meanwhile.

    :param keys: the conflicting tables, ``namespace.name``; empty where the server does not name them.
    """

    def __init__(
        self,
        service: str,
        message: str,
        *,
        status: int | None = None,
        body: str = "",
        keys: tuple[str, ...] = (),
    ) -> None:
        super().__init__(service, message, status=status, body=body)
        self.keys = keys


class QueryFailed(ServiceError, TerminalError):
    """Pinot's broker refused or failed a query; the message carries its reason."""


class TableIncompatible(TerminalError):
    """A Pinot table cannot be changed into what is declared; it has to be rebuilt."""


class CheckFailed(TerminalError):
    """A data check found something wrong; the message names rule and keys."""


class WaitTimeout(TransientError):
    """What was waited for did not happen in time."""
