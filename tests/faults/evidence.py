"""P3: what comes out of the program, all of it, and the search for what must not be in it."""

import base64
import json
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

import ahocorasick
import psycopg

# Shorter ones would be found by chance; what is that short is no password of the program's, nor a token.
SHORTEST = 12
ACTIVITY = "SELECT query, application_name, usename FROM pg_stat_activity"
_BY_HAND = re.compile(r"://[^:/@]+:([^@/]+)@")


class Evidence:
    """Collects secrets, and texts that hold none of them if all is well."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._texts: list[str] = []
        self._files: list[Path] = []

    def secret(self, *values: str) -> None:
        self._secrets.update(value for value in values if len(value) >= SHORTEST)

    def secrets_in(self, values: Iterable[str]) -> None:
        """Take the passwords out of connection URIs."""
        for value in values:
            self.secret(*_BY_HAND.findall(value))

    def keep(self, *texts: object) -> None:
        self._texts += [text if isinstance(text, str) else json.dumps(text, default=repr) for text in texts]

    def keep_file(self, file: Path) -> None:
        self._files.append(file)

    @contextmanager
    def of_activity(self, superuser: str) -> Iterator[None]:
        """Keep what PostgreSQL's activity views show meanwhile."""
        over = threading.Event()

        def sample() -> None:
            while not over.wait(0.1):
                # A server that is restarted ends this session as well.
                with suppress(psycopg.OperationalError), psycopg.connect(superuser, autocommit=True) as session:
                    while not over.wait(0.01):
                        seen.update(map(str, session.execute(ACTIVITY).fetchall()))

        seen: set[str] = set()
        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            yield
        finally:
            over.set()
            sampler.join()
            self.keep(*seen)

    def found(self) -> list[str]:
        """Return where one of the secrets was found: the text around it, with the secret blotted out."""
        secrets = ahocorasick.Automaton()
        for secret in self._secrets:
            for spelling in spellings(secret):
                secrets.add_word(spelling, len(spelling))
        secrets.make_automaton()
        places = []
        for text in (*self._texts, *(file.read_text(errors="replace") for file in self._files if file.exists())):
            for end, length in secrets.iter(text):
                places.append(f"{text[max(0, end - length - 120) : end - length + 1]}***{text[end + 1 : end + 60]}")
        return places

    @property
    def size(self) -> tuple[int, int]:
        """How many secrets were looked for, in how many characters."""
        files = sum(file.stat().st_size for file in self._files if file.exists())
        return len(self._secrets), files + sum(map(len, self._texts))


def spellings(secret: str) -> set[str]:
    """Return a secret plain, URL-encoded, JSON-escaped, as its first half, and in base64 wherever it may begin."""
    encoded = {
        # What stands before shifts the bits, and what stands around mixes into the first and last characters.
        encode(b"x" * shift + secret.encode()).decode().rstrip("=")[(0, 2, 3)[shift] : -1]
        for shift in range(3)
        for encode in (base64.b64encode, base64.urlsafe_b64encode)
    }
    return {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        secret[: max(SHORTEST, len(secret) // 2)],
        *encoded,
    }
