"""A rotation is a list of outside calls: what happens before and after each of them."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

from rotators.databases.postgresql import PostgreSQLEngine
from rotators.vault import Vault

VAULT_CALLS = ("current", "version", "versions", "publish", "write_tags", "disable")
ADMIN_CALLS = ("lock", "assert_locked", "roles", "sessions", "set_password", "create_second", "claim", "lock_out",
               "end_sessions")  # fmt: skip


class Killed(BaseException):
    """The process is gone."""


def kill(where: str) -> NoReturn:
    raise Killed(where)


class Boundaries:
    """Every call to the outside, in its order.

    Attributes:
        calls: the names of all calls so far.
        at: where something happens: 2n is before call n, 2n+1 after it.
        do: what happens there; it is told where.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.at: int | None = None
        self.do: Callable[[str], object] = kill

    def around[**P, T](self, name: str, call: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(call)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            number = len(self.calls)
            self.calls.append(name)
            self._reach(2 * number, f"before {name}")
            try:
                return call(*args, **kwargs)
            finally:
                self._reach(2 * number + 1, f"after {name}")

        return called

    def _reach(self, boundary: int, where: str) -> None:
        if self.at == boundary:
            self.at = None
            self.do(where)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Look at every call to Key Vault and to the database."""
        for name in VAULT_CALLS:
            patch.setattr(Vault, name, self.around(f"vault.{name}", getattr(Vault, name)))
        patch.setattr(PostgreSQLEngine, "verify", self.around("database.verify", PostgreSQLEngine.verify))
        log_in = PostgreSQLEngine.admin

        def admin(engine: PostgreSQLEngine, *args: Any, **kwargs: Any) -> Any:
            session = self.around("database.admin", log_in)(engine, *args, **kwargs)
            for name in ADMIN_CALLS:
                setattr(session, name, self.around(f"database.{name}", getattr(session, name)))
            transaction = session.transaction

            @contextmanager
            def around_commit() -> Iterator[None]:
                with transaction():
                    yield
                    self.around("database.about to commit", lambda: None)()
                self.around("database.committed", lambda: None)()

            patch.setattr(session, "transaction", around_commit)
            return session

        patch.setattr(PostgreSQLEngine, "admin", admin)
