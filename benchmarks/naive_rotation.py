"""What one would write on an afternoon: no lock, no second look, no state, and no way back from half way."""

import secrets
from urllib.parse import quote

import psycopg
from azure.keyvault.secrets import SecretClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

ALT = "_alt"


def rotate(client: SecretClient, secret: str, admin_secret: str) -> None:
    """Give the user whose turn it is a new password, log in with it, and write it into the secret.

    The admin's session is psycopg's plain `with`, so that its two statements are one transaction.
    """
    current = client.get_secret(secret).value or ""
    admin = client.get_secret(admin_secret).value or ""
    user = other_user(str(conninfo_to_dict(current)["user"]))
    password = secrets.token_urlsafe(30)
    with psycopg.connect(admin) as session:
        if session.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (user,)).fetchone() is None:
            raise LookupError(f"user {user!r} does not exist")
        session.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(user), password))
    scheme, _, rest = current.partition("://")
    renewed = f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest.rpartition('@')[2]}"
    psycopg.connect(renewed).close()
    client.set_secret(secret, renewed)


def other_user(user: str) -> str:
    """Return the user whose turn it is after this one."""
    return user.removesuffix(ALT) if user.endswith(ALT) else user + ALT
