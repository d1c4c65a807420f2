"""Users, and passwords that do not print themselves."""

import secrets
from dataclasses import dataclass
from typing import NoReturn

PASSWORD_LENGTH = 40
# Unreserved in a URI (RFC 3986), literal in a shell word, in a libpq string and in JSON. `~` and a
# leading `-` would not be, so neither is in it. 40 of these 64 characters carry 240 bits.
PASSWORD_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_."  # noqa: S105 (an alphabet)


class Password:
    """A password or token. `repr`, `str`, `format`, pickling and JSON never show it; `reveal()` does."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        return self.__value

    def __repr__(self) -> str:
        return "Password('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Password) and secrets.compare_digest(self.__value.encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self.__value)

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Password is not pickled")


@dataclass(frozen=True, slots=True)
class Credential:
    """Who logs in, and with what."""

    user: str
    password: Password


def new_password(length: int = PASSWORD_LENGTH, alphabet: str = PASSWORD_ALPHABET) -> Password:
    """Return a password of `length` characters, each drawn from `alphabet` by the `secrets` module."""
    return Password("".join(secrets.choice(alphabet) for _ in range(length)))
