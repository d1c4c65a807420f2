"""All that a rotation could change, so that a test can see that nothing did (P6, P7)."""

import re
from dataclasses import dataclass
from typing import Any

from tests.world import ADMIN_SECRET, World

# What the program says to a database when it changes something.
CHANGES = re.compile(r"\b(ALTER|CREATE|COMMENT|GRANT|DROP)\b")


@dataclass
class Everything:
    """All that a rotation could have changed, and how to see that it did not."""

    here: World
    vault: dict[str, object]
    roles: list[tuple[Any, ...]]  # Any: what a row holds
    logged: int

    @classmethod
    def of(cls, here: World, *names: str) -> "Everything":
        return cls(here, cls._vault(here, *names), cls._roles(here), len(here.server.log()))

    @staticmethod
    def _vault(here: World, *names: str) -> dict[str, object]:
        # Whole versions: values, tags, enabled or not, when they were updated.
        return {name: here.versions(name) for name in (*names, ADMIN_SECRET)}

    @staticmethod
    def _roles(here: World) -> list[tuple[Any, ...]]:  # Any: what a row holds
        # Passwords, rights, comments, settings and memberships of every user.
        return here.server.execute("""
            SELECT r::text, shobj_description(r.oid, 'pg_authid'),
                ARRAY(
                    SELECT s.setconfig::text FROM pg_db_role_setting s WHERE s.setrole = r.oid ORDER BY s.setdatabase
                ),
                ARRAY(SELECT m.roleid FROM pg_auth_members m WHERE m.member = r.oid ORDER BY m.roleid)
            FROM pg_authid r ORDER BY r.rolname
        """)

    @property
    def log(self) -> str:
        """What the server has logged since."""
        return self.here.server.log()[self.logged :]

    def assert_unchanged(self, *, attempts: bool = False) -> None:
        """`attempts`: the program had to try, to find out that it may not."""
        log = self.log
        assert attempts or not CHANGES.search(log), log
        assert self._vault(self.here, *(name for name in self.vault if name != ADMIN_SECRET)) == self.vault
        assert self._roles(self.here) == self.roles
