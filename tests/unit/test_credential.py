"""Passwords that do not print themselves."""

import copy
import json
import logging
import pickle
import shlex
import string
from collections.abc import Callable
from dataclasses import asdict
from traceback import TracebackException
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from rotators.credential import PASSWORD_ALPHABET, PASSWORD_LENGTH, Credential, Password, new_password

SECRET = "c0rrect-h0rse"
PASSWORD = Password(SECRET)
CREDENTIAL = Credential("app", PASSWORD)


def test_a_password_is_revealed_only_on_purpose() -> None:
    """P3: one way to the value, which is easily searched for."""
    assert PASSWORD.reveal() == SECRET


@pytest.mark.parametrize(
    "show",
    [repr, str, format, "{}".format, "{!r}".format, "{!s}".format, lambda it: f"{it}"],
)
@pytest.mark.parametrize("shown", [PASSWORD, CREDENTIAL, [PASSWORD], {"x": PASSWORD}, ValueError(PASSWORD)])
def test_a_password_does_not_show_itself(show: Callable[[object], str], shown: object) -> None:
    """P3: in no text that is made of it, or of what holds it."""
    assert SECRET not in show(shown)


def test_a_password_in_a_log_line_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """P3: as an argument of a log call neither."""
    logging.getLogger("test").error("logs in with %s as %r", PASSWORD, CREDENTIAL)
    assert "logs in with Password('***') as Credential(user='app', password=Password('***'))" in caplog.text
    assert SECRET not in caplog.text


def test_a_password_in_the_locals_of_a_traceback_is_not_shown() -> None:
    """P3: error reporters print the variables of each frame."""

    def fail(password: Password) -> None:
        raise ValueError(password)

    with pytest.raises(ValueError, match="Password") as caught:
        fail(PASSWORD)
    trace = "".join(TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "password = Password('***')" in trace
    assert SECRET not in trace


@pytest.mark.parametrize("write", [pickle.dumps, json.dumps, copy.copy, copy.deepcopy, vars, bytes])
def test_a_password_is_not_written_anywhere(write: Callable[[Password], object]) -> None:
    """P3: neither pickled nor turned into JSON nor taken apart."""
    with pytest.raises(TypeError):
        write(PASSWORD)


@pytest.mark.parametrize("write", [pickle.dumps, copy.copy, copy.deepcopy])
def test_who_tries_to_pickle_a_password_is_told_why_not(write: Callable[[Password], object]) -> None:
    """P7: what holds one and is to cross a process shows up here, far from the field that is to be left out."""
    with pytest.raises(TypeError, match=r"^a Password is not pickled$"):
        write(PASSWORD)


def test_a_credential_is_not_turned_into_a_dictionary() -> None:
    """P3: `asdict` is how dataclasses get into logs."""
    with pytest.raises(TypeError):
        asdict(CREDENTIAL)


def test_passwords_are_compared_by_their_value() -> None:
    """Whether a secret was changed meanwhile is seen without revealing it; a text is no Password."""
    one, same = Password("pässword"), Password("pässword")
    assert one == same
    assert hash(one) == hash(same)
    assert hash(one) != hash(Password("pässwort"))
    assert one != Password("pässwort")
    assert one != "pässword"


def test_an_empty_password_counts_as_none() -> None:
    """`if password` asks whether there is one."""
    assert PASSWORD
    assert not Password("")


def test_a_new_password_is_long_random_and_of_its_alphabet() -> None:
    """40 characters of 64 carry 240 bits; no two are the same, and each character has its turn."""
    passwords = [new_password().reveal() for _ in range(200)]
    assert {len(password) for password in passwords} == {PASSWORD_LENGTH} == {40}
    assert len(set(passwords)) == 200
    assert set("".join(passwords)) == set(PASSWORD_ALPHABET)
    assert len(PASSWORD_ALPHABET) == len(set(PASSWORD_ALPHABET)) == 64


def test_length_and_alphabet_may_be_chosen() -> None:
    """A server with rules of its own may ask for others."""
    password = new_password(12, string.digits).reveal()
    assert len(password) == 12
    assert password.isdigit()


def test_a_new_password_needs_no_quoting_anywhere() -> None:
    """In a URI, a shell word, a libpq string and JSON it stands as it is, so that nobody can quote it wrongly."""
    every = PASSWORD_ALPHABET
    assert quote(every, safe="") == every
    assert shlex.quote(every) == every
    assert json.dumps(every) == f'"{every}"'
    assert conninfo_to_dict(f"user=app password={every}")["password"] == every
    assert conninfo_to_dict(f"postgresql://app:{every}@db")["password"] == every
    # An option of a command line begins with a dash.
    assert "-" not in every
