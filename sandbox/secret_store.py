"""What a Key Vault knows about secrets, and its rules. No HTTP."""

import re
import secrets
import threading
import uuid
from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from itertools import islice
from typing import Literal

from sandbox.clock import Clock

EventType = Literal["SecretNewVersionCreated", "SecretNearExpiry", "SecretExpired"]

# Not configurable for secrets; only keys have a lead time of one's own.
NEAR_EXPIRY = timedelta(days=30)
RETENTION = timedelta(days=90)
MAX_VALUE_BYTES = 25_600
MAX_CONTENT_TYPE = 255
MAX_TAGS = 15
MAX_TAG = 512
_NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")


class KeyVaultError(Exception):
    """A refusal, as the service words it."""

    def __init__(self, status: HTTPStatus, code: str, message: str, inner: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.inner = status, code, message, inner


def bad_parameter(message: str) -> KeyVaultError:
    """Return the refusal of something that is not as it should be; most of its texts are not the service's."""
    return KeyVaultError(HTTPStatus.BAD_REQUEST, "BadParameter", message)


@dataclass(frozen=True, slots=True)
class Properties:
    """What a request names about a version; None is not named."""

    content_type: str | None = None
    tags: dict[str, str] | None = None
    enabled: bool | None = None
    not_before: datetime | None = None
    expires_on: datetime | None = None

    def named(self) -> dict[str, object]:
        """Return only what is named. Raise KeyVaultError when it is beyond the limits."""
        if len(self.content_type or "") > MAX_CONTENT_TYPE:
            raise bad_parameter(f"The content type has more than {MAX_CONTENT_TYPE} characters.")
        if len(self.tags or {}) > MAX_TAGS:
            raise bad_parameter(f"There are more than {MAX_TAGS} tags.")
        if any(len(text) > MAX_TAG for tag in (self.tags or {}).items() for text in tag):
            raise bad_parameter(f"The name or value of a tag has more than {MAX_TAG} characters.")
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One version as it is now; times are whole seconds."""

    name: str
    version: str
    value: str = field(repr=False)
    created: datetime
    updated: datetime
    content_type: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    enabled: bool = True
    not_before: datetime | None = None
    expires_on: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeletedSecret:
    """A soft-deleted secret, by its current version."""

    current: SecretVersion
    deleted: datetime
    purge: datetime


@dataclass(slots=True)
class _Secret:
    versions: dict[str, SecretVersion] = field(default_factory=dict)
    """By version id, in the order of writing: the last is the current one, whatever `created` says."""
    deleted: datetime | None = None
    settled: datetime | None = None
    """Until then it is being deleted or recovered."""
    raised: set[tuple[str, EventType]] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)

    @property
    def current(self) -> SecretVersion:
        return next(reversed(self.versions.values()))


class SecretStore:
    """The secrets of one vault; every method is atomic.

    Deleting, recovering and purging take `settling` on the clock; `announce` is called at each new version and
    must return at once.
    """

    def __init__(
        self, clock: Clock, settling: timedelta, announce: Callable[[EventType, SecretVersion], object]
    ) -> None:
        self._clock = clock
        self._settling = settling
        self._announce = announce
        # Names are case-insensitive, so all keys are lower case.
        self._secrets: dict[str, _Secret] = {}
        # In order: who lists ten thousand secrets does it in four hundred requests.
        self._names: list[str] = []
        self._purging: dict[str, datetime] = {}
        self._backups: dict[str, tuple[SecretVersion, ...]] = {}
        self._lock = threading.RLock()

    def write(self, name: str, value: str, properties: Properties, *, silent: bool = False) -> SecretVersion:
        """Add a version, which becomes the current one and inherits nothing; `silent` raises no event, ever."""
        _check_name(name)
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise bad_parameter(f"The value has more than {MAX_VALUE_BYTES} bytes.")
        named = properties.named()
        with self._lock:
            self._check_free(name)
            now = self._now()
            secret = self._secrets.get(name.lower()) or self._add(name, _Secret())
            known_as = secret.current.name if secret.versions else name
            version = replace(
                SecretVersion(known_as, uuid.uuid4().hex, value, created=now, updated=now),
                **named,  # type: ignore[arg-type]  # the names are Properties' own
            )
            secret.versions[version.version] = version
            if silent:
                secret.silent.add(version.version)
            else:
                self._announce("SecretNewVersionCreated", version)
            return version

    def find(self, name: str, version: str | None = None) -> SecretVersion:
        """Return a version, disabled or not; without an id the current one."""
        _check_name(name)
        with self._lock:
            secret = self._active(name)
            if version and version not in secret.versions:
                raise _not_found(f"{name}/{version}")
            return secret.versions[version] if version else secret.current

    def read(self, name: str, version: str | None = None) -> SecretVersion:
        """Return a version for its value: refused when it is disabled, but neither `nbf` nor `exp` hinder."""
        found = self.find(name, version)
        if not found.enabled:
            message = "Operation get is not allowed on a disabled secret."
            raise KeyVaultError(HTTPStatus.FORBIDDEN, "Forbidden", message, "SecretDisabled")
        return found

    def update(self, name: str, version: str | None, properties: Properties) -> SecretVersion:
        """Change what is named and nothing else, on a disabled or an old version as well.

        A new expiry date re-arms the events of the version. Whether Azure does that is UNVERIFIED.
        """
        with self._lock:
            found = self.find(name, version)
            changed = replace(found, **properties.named(), updated=self._now())  # type: ignore[arg-type]
            secret = self._active(name)
            secret.versions[found.version] = changed
            if changed.expires_on != found.expires_on:
                secret.raised = {raised for raised in secret.raised if raised[0] != found.version}
            return changed

    def all_current(self) -> list[SecretVersion]:
        """Return the current version of each secret, disabled ones too, in the order of names."""
        with self._lock:
            return self.current_after("", len(self._names))

    def current_after(self, name: str, at_most: int) -> list[SecretVersion]:
        """Return of `all_current` at most so many, whose names come after this one in lower case."""
        with self._lock:
            names = (self._names[number] for number in range(bisect_right(self._names, name), len(self._names)))
            return [self._secrets[name].current for name in islice(filter(self._is_active, names), at_most)]

    def versions(self, name: str) -> list[SecretVersion]:
        """Return all versions in the order of writing, which the service never tells; none for an unknown name."""
        _check_name(name)
        with self._lock:
            return list(self._active(name).versions.values()) if self._is_active(name) else []

    def delete(self, name: str) -> DeletedSecret:
        """Delete softly; the name stays taken."""
        with self._lock:
            self.find(name)
            secret = self._active(name)
            secret.deleted, secret.settled = self._now(), self._clock.now() + self._settling
            return _as_deleted(secret)

    def deleted(self, name: str) -> DeletedSecret:
        """Return a deleted secret once its deletion is over."""
        with self._lock:
            return _as_deleted(self._gone(name))

    def all_deleted(self) -> list[DeletedSecret]:
        """Return all deleted secrets in the order of names."""
        with self._lock:
            return [_as_deleted(s) for _, s in sorted(self._secrets.items()) if s.deleted and self._is_settled(s)]

    def recover(self, name: str) -> SecretVersion:
        """Bring back a deleted secret with all of its versions."""
        with self._lock:
            secret = self._gone(name)
            secret.deleted, secret.settled = None, self._clock.now() + self._settling
            return secret.current

    def purge(self, name: str) -> None:
        """Forget a deleted secret; its name is free a little later, which nothing tells."""
        with self._lock:
            self._gone(name)
            del self._secrets[name.lower()]
            self._names.remove(name.lower())
            self._purging[name.lower()] = self._clock.now() + self._settling

    def back_up(self, name: str) -> str:
        """Return a blob (base64url) that only this vault can restore."""
        with self._lock:
            versions = tuple(self._active(name).versions.values())
            blob = secrets.token_urlsafe(96)
            self._backups[blob] = versions
            return blob

    def restore(self, blob: str) -> SecretVersion:
        """Bring back all versions of a backup under their ids."""
        with self._lock:
            versions = self._backups.get(blob.rstrip("="))
            if versions is None:
                message = "Backup blob contains invalid or corrupt version."
                raise KeyVaultError(HTTPStatus.BAD_REQUEST, "Malformed backup blob", message)
            name = versions[-1].name
            try:
                taken = self._is_active(name)
                self._check_free(name)
            except KeyVaultError:
                taken = True
            if taken:
                message = f"There was a conflict restoring the secret '{name}'"
                raise KeyVaultError(HTTPStatus.CONFLICT, "Conflict", message)
            return self._add(name, _Secret({v.version: v for v in versions})).current

    def due_events(self) -> list[tuple[EventType, SecretVersion]]:
        """Return what is to be raised now: per version once, and only for current versions, disabled ones too."""
        due: list[tuple[EventType, SecretVersion]] = []
        leads: tuple[tuple[EventType, timedelta], ...] = (
            ("SecretNearExpiry", NEAR_EXPIRY),
            ("SecretExpired", timedelta(0)),
        )
        with self._lock:
            for version in self.all_current():
                secret = self._secrets[version.name.lower()]
                if version.expires_on is None or version.version in secret.silent:
                    continue
                for event, lead in leads:
                    raised = (version.version, event)
                    if version.expires_on - lead <= self._clock.now() and raised not in secret.raised:
                        secret.raised.add(raised)
                        due.append((event, version))
        return due

    def _now(self) -> datetime:
        return self._clock.now().replace(microsecond=0)

    def _add(self, name: str, secret: _Secret) -> _Secret:
        self._secrets[name.lower()] = secret
        insort(self._names, name.lower())
        return secret

    def _is_settled(self, secret: _Secret) -> bool:
        return secret.settled is None or secret.settled <= self._clock.now()

    def _is_active(self, name: str) -> bool:
        secret = self._secrets.get(name.lower())
        return secret is not None and not secret.deleted and self._is_settled(secret)

    def _active(self, name: str) -> _Secret:
        if not self._is_active(name):
            raise _not_found(name)
        return self._secrets[name.lower()]

    def _gone(self, name: str) -> _Secret:
        _check_name(name)
        secret = self._secrets.get(name.lower())
        if secret is None or not secret.deleted or not self._is_settled(secret):
            raise KeyVaultError(HTTPStatus.NOT_FOUND, "SecretNotFound", f"Deleted Secret not found: {name}")
        return secret

    def _check_free(self, name: str) -> None:
        key, now = name.lower(), self._clock.now()
        secret = self._secrets.get(key)
        if self._purging.get(key, now) > now or (secret and secret.deleted and not self._is_settled(secret)):
            raise _busy(name, "deleted", "ObjectIsBeingDeleted")
        if secret and not self._is_settled(secret):
            raise _busy(name, "recovered", "ObjectIsBeingRecovered")
        if secret and secret.deleted:
            message = (
                f"Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused; "
                "in this state, the secret can only be recovered or purged."
            )
            raise KeyVaultError(HTTPStatus.CONFLICT, "Conflict", message, "ObjectIsDeletedButRecoverable")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise bad_parameter(f"The request URI contains an invalid name: {name}")


def _as_deleted(secret: _Secret) -> DeletedSecret:
    if secret.deleted is None:
        raise AssertionError("asked of a secret that is not deleted")
    return DeletedSecret(secret.current, secret.deleted, secret.deleted + RETENTION)


def _not_found(name: str) -> KeyVaultError:
    message = (
        f"A secret with (name/id) {name} was not found in this key vault. If you recently deleted this secret "
        "you may be able to recover it using the correct recovery command."
    )
    return KeyVaultError(HTTPStatus.NOT_FOUND, "SecretNotFound", message)


def _busy(name: str, what: str, inner: str) -> KeyVaultError:
    message = f"Secret {name} is currently being {what} and cannot be re-created; retry later."
    return KeyVaultError(HTTPStatus.CONFLICT, "Conflict", message, inner)
