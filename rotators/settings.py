"""App settings -> Settings: read and checked in one place, every complaint listed at once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

from cronsim import CronSim, CronSimError

from rotators.airflow import AirflowAccess
from rotators.credential import Password
from rotators.errors import SettingsError
from rotators.policy import SSLMODES, duration, is_secret_name

DEFAULT_SWEEP_SCHEDULE = "0 */15 * * * *"

AirflowAuth = Literal["password", "token", "entra"]
AirflowCopies = Literal["clear", "update", "keep"]
_NCRONTAB_FIELD = re.compile(r"([\d*/,-]|[A-Za-z]{3})+")
_ALLOWED_HOST = re.compile(r"(?:(?:\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]{1,5}))?")
# What the network's libraries take without raising something of their own; another alphabet has its `xn--` form.
_URL_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?|[0-9a-f:.]*:[0-9a-f:.]*")
_NOT_PRINTABLE = re.compile(r"[\0-\x1f\x7f-\x9f\ud800-\udfff]")
# Both go into an HTTP header, whose errors would show them.
_IN_HEADERS = ("AIRFLOW_TOKEN", "EVENT_GRID_TOPIC_KEY")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the app settings say; docs/reference.md has a row for each."""

    vault_url: str
    client_id: str | None
    credential_name: str
    airflow: AirflowAccess | None
    airflow_secret: str | None
    airflow_password: Password
    airflow_entra_scope: str | None
    connections_prefix: str
    topic_endpoint: str | None
    topic_key: Password | None
    concurrency: int
    allowed_hosts: tuple[str, ...]
    min_sslmode: str
    trust_principal: bool
    sweep_schedule: str = DEFAULT_SWEEP_SCHEDULE

    def sweeps(self, after: datetime) -> Iterator[datetime]:
        """Return the minutes in which the sweep runs, in UTC."""
        return _minutes(self.sweep_schedule, after.astimezone(UTC))


def sweep_schedule(environ: Mapping[str, str]) -> str:
    """Return the NCRONTAB expression of the sweep; the default when the setting is missing or unusable.

    It is needed before the settings can be complained about: a function whose schedule the host cannot read
    does not exist.
    """
    schedule = environ.get("ROTATION_SWEEP_SCHEDULE", "").strip() or DEFAULT_SWEEP_SCHEDULE
    return schedule if _is_ncrontab(schedule) else DEFAULT_SWEEP_SCHEDULE


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings in `environ`. Raise SettingsError with every complaint if one is missing or wrong.

    No complaint repeats the value of a setting that may be a secret.
    """
    read = _Reader(environ)
    vault_url = read.url("KEY_VAULT_URL", schemes=("https",), required=True)
    airflow_url = read.url("AIRFLOW_URL", schemes=("https", "http"))
    auth = cast("AirflowAuth", read.choice("AIRFLOW_AUTH", get_args(AirflowAuth), "password"))
    copies = cast("AirflowCopies", read.choice("AIRFLOW_CONNECTIONS", get_args(AirflowCopies), "clear"))
    lookback = read.duration("AIRFLOW_LOOKBACK", timedelta(hours=24))
    max_examined = read.number("AIRFLOW_MAX_EXAMINED", 2000)
    # Airflow's backend too leaves the dash at its end out, if there is one.
    prefix = (read.text("AIRFLOW_CONNECTIONS_PREFIX") or "airflow-connections").rstrip("-")
    if not re.fullmatch(r"[0-9A-Za-z-]{1,126}", prefix):
        read.complain("AIRFLOW_CONNECTIONS_PREFIX", "has characters that a secret's name cannot have")
    airflow_secret = read.text("AIRFLOW_PASSWORD_SECRET")
    if airflow_secret is not None and not is_secret_name(airflow_secret):
        read.complain("AIRFLOW_PASSWORD_SECRET", "is no secret's name: 1 to 127 letters, digits and dashes")
    if airflow_url:
        _check_airflow_login(read, auth)
    topic_endpoint = read.url("EVENT_GRID_TOPIC_ENDPOINT", schemes=("https", "http"))
    topic_key = read.text("EVENT_GRID_TOPIC_KEY")
    if topic_key and not topic_endpoint:
        read.complain("EVENT_GRID_TOPIC_ENDPOINT", "is missing, but EVENT_GRID_TOPIC_KEY is set")
    if topic_endpoint.lower().startswith("http://") and not topic_key:
        read.complain("EVENT_GRID_TOPIC_ENDPOINT", "must be https: without a key a token is sent there")
    if not _is_ncrontab(read.text("ROTATION_SWEEP_SCHEDULE") or DEFAULT_SWEEP_SCHEDULE):
        read.complain(
            "ROTATION_SWEEP_SCHEDULE",
            f"is not an NCRONTAB expression of six fields like {DEFAULT_SWEEP_SCHEDULE!r}",
        )
    settings = Settings(
        vault_url=vault_url,
        client_id=read.text("AZURE_CLIENT_ID"),
        credential_name=read.text("AZURE_TOKEN_CREDENTIALS") or "ManagedIdentityCredential",
        airflow=AirflowAccess(
            url=airflow_url,
            auth=auth,
            username=read.text("AIRFLOW_USERNAME"),
            connections=copies,
            lookback=lookback,
            max_examined=max_examined,
        )
        if airflow_url
        else None,
        airflow_secret=airflow_secret,
        airflow_password=Password(
            (read.text("AIRFLOW_TOKEN") if auth == "token" else read.text("AIRFLOW_PASSWORD")) or ""
        ),
        airflow_entra_scope=read.text("AIRFLOW_ENTRA_SCOPE"),
        connections_prefix=prefix,
        topic_endpoint=topic_endpoint or None,
        topic_key=Password(topic_key) if topic_key else None,
        concurrency=read.number("ROTATION_CONCURRENCY", 4),
        allowed_hosts=read.hosts("ROTATION_ALLOWED_HOSTS"),
        min_sslmode=read.choice("ROTATION_MIN_SSLMODE", SSLMODES, "require"),
        trust_principal=read.choice("ROTATION_TRUST_PRINCIPAL", ("true", "false"), "false") == "true",
        sweep_schedule=sweep_schedule(environ),
    )
    if read.complaints:
        raise SettingsError(read.complaints)
    return settings


def _check_airflow_login(read: "_Reader", auth: AirflowAuth) -> None:
    match auth:
        case "password":
            if not read.text("AIRFLOW_USERNAME"):
                read.complain("AIRFLOW_USERNAME", "is missing: AIRFLOW_AUTH is 'password'")
            if bool(read.text("AIRFLOW_PASSWORD")) == bool(read.text("AIRFLOW_PASSWORD_SECRET")):
                read.complain("AIRFLOW_PASSWORD_SECRET", "or AIRFLOW_PASSWORD, exactly one of them, must be set")
        case "token":
            if not read.text("AIRFLOW_TOKEN"):
                read.complain("AIRFLOW_TOKEN", "is missing: AIRFLOW_AUTH is 'token'")
        case "entra":
            if not read.text("AIRFLOW_ENTRA_SCOPE"):
                read.complain("AIRFLOW_ENTRA_SCOPE", "is missing: AIRFLOW_AUTH is 'entra'")


def _minutes(schedule: str, after: datetime) -> CronSim:
    times = CronSim(schedule.split(maxsplit=1)[1], after)
    times.day_and = True  # NCRONTAB wants both day fields to match
    return times


def _is_ncrontab(schedule: str) -> bool:
    """Six fields: seconds first, then the five of cron, but for what only other crons know (`L`, `#`, Sunday as 7)."""
    fields = schedule.split()
    if len(fields) != 6 or not all(_NCRONTAB_FIELD.fullmatch(field) for field in fields):  # noqa: PLR2004 (so many)
        return False
    if re.search(r"(?<![/\d])7", fields[5]):
        return False
    try:
        # Seconds are written, and go, as minutes do.
        CronSim(f"{fields[0]} * * * *", datetime.now(UTC))
        # One that never comes, such as the 30th of February, is none.
        return next(_minutes(schedule, datetime.now(UTC)), None) is not None
    except CronSimError:
        return False


def is_allowed_host(entry: str) -> bool:
    """Whether this is one of `name`, `name:port` and `*.suffix`, as ROTATION_ALLOWED_HOSTS takes them."""
    found = _ALLOWED_HOST.fullmatch(entry)
    return found is not None and 0 < int(found["port"] or 1) < 2**16


def _is_usable_url(url: str, schemes: tuple[str, ...]) -> bool:
    """Whether our libraries can call it, and may show it: with a user comes a password, and keys stand in queries."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    return (
        parts.scheme in schemes
        and _URL_HOST.fullmatch(host) is not None
        and ("[" in url) is (":" in host)
        and port != 0
        and re.fullmatch(r"[!-~]+", url) is not None
        and not set(url) & set("@?#\\")
    )


class _Reader:
    """The environment, and what is wrong with it; a blank setting counts as missing, as in the portal."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._complaints: dict[str, str] = {}

    @property
    def complaints(self) -> tuple[str, ...]:
        return tuple(f"{name} {what}" for name, what in self._complaints.items())

    def complain(self, name: str, what: str) -> None:
        """Only the first complaint about a setting counts: what follows from it would mislead."""
        self._complaints.setdefault(name, what)

    def text(self, name: str) -> str | None:
        value = self._environ.get(name, "").strip()
        if _NOT_PRINTABLE.search(value) or (name in _IN_HEADERS and not value.isascii()):
            what = "an ASCII letter, digit or sign" if name in _IN_HEADERS else "a printable one"
            self.complain(name, f"has a character that is not {what}; copy it again")
        return value or None

    def url(self, name: str, *, schemes: tuple[str, ...], required: bool = False) -> str:
        value = self.text(name)
        if value is None:
            if required:
                self.complain(name, f"is missing: set it to a URL like {schemes[0]}://...")
            return ""
        if not _is_usable_url(value, schemes) or (name == "KEY_VAULT_URL" and urlsplit(value).path not in ("", "/")):
            self.complain(
                name,
                f"is not a URL that starts with {' or '.join(f'{s}://' for s in schemes)} and has a host's name, with "
                "neither a user nor a query",
            )
        return value.rstrip("/")

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name)
        if value is not None and value.lower() not in choices:
            self.complain(name, f"is not one of {', '.join(choices)}")
        return (value or default).lower()

    def number(self, name: str, default: int) -> int:
        value = self.text(name)
        if value is None:
            return default
        if not re.fullmatch(r"[1-9]\d{0,6}", value):
            self.complain(name, "is not a whole number from 1 on")
            return default
        return int(value)

    def duration(self, name: str, default: timedelta) -> timedelta:
        value = self.text(name)
        if value is None:
            return default
        parsed = duration(value)
        if not parsed:
            self.complain(name, "is not a duration like 15m, 36h or 60d")
        return parsed or default

    def hosts(self, name: str) -> tuple[str, ...]:
        hosts = tuple(part.strip().lower() for part in (self.text(name) or "").split(",") if part.strip())
        for host in hosts:
            if not is_allowed_host(host):
                self.complain(name, "has an entry that is none of name, name:port and *.suffix")
        return hosts
