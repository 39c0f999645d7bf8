"""What a database's refusals mean: those that trying again may mend become UnavailableError, others stay."""

import sqlite3

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError

from dsp.kernel.errors import UnavailableError

#: SQLSTATEs (PostgreSQL, appendix A) that drivers do not count among operational errors.
_UNDEFINED_TABLE, _UNDEFINED_COLUMN, _READ_ONLY = "42P01", "42703", "25006"
#: And one that they do, but which no time mends: a value that is larger than an index takes.
_TOO_LARGE = "54000"
_RETRIABLE = (
    _UNDEFINED_TABLE,  # not migrated yet, as SQLite's operational error is
    _UNDEFINED_COLUMN,
    _READ_ONLY,  # still connected to what was the primary before a failover
)


def translate(engine: Engine) -> None:
    """Let every statement, commit and connection of an engine raise UnavailableError where trying again may help.

    That is: no connection, a connection lost, a time-out, a deadlock, a failed serialisation, a locked or full file, a
    schema that is not there yet. A transaction whose commit fails so may have been committed all the same. A value that
    is too large is a DataError, as other values are that the database cannot hold.
    """
    event.listen(engine, "handle_error", _on_fault)


def _on_fault(context: ExceptionContext) -> None:
    fault = context.sqlalchemy_exception
    if context.is_pre_ping or not isinstance(fault, DBAPIError):
        return
    state = getattr(fault.orig, "sqlstate", None)
    if state == _TOO_LARGE:
        raise DataError(fault.statement, fault.params, context.original_exception) from fault.orig
    if state == _READ_ONLY:
        context.is_disconnect = True
    if context.is_disconnect or isinstance(fault, OperationalError | InterfaceError) or state in _RETRIABLE:
        # The first line: PostgreSQL's further lines are hints, or the statement.
        message = str(fault.orig).partition("\n")[0]
        if getattr(fault.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_CANTOPEN and context.engine is not None:
            message = f"{message} {context.engine.url.database}"  # SQLite does not say which
        raise UnavailableError(f"the database does not answer: {message}") from fault.orig
