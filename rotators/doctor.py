"""The doctor: every condition of a rotation tried, nothing changed; each is fine, or the answer says what to do.

It asks what a rotation asks, by the same functions, and goes on where a rotation would stop. Whether the admin may
change a user is tried for real, in a transaction that is taken back: that is the server's own answer, whatever its
version and its provider's additions, where its catalog would only let us guess. For these milliseconds the secret's
lock is held, so that no rotation is disturbed, and logins read what was there before.
"""

import dataclasses
import logging
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta

from rotators.access import (
    Managed,
    log_in,
    open_admin_secret,
    read_admin_secret,
    read_connection,
    refuse_another_server,
    with_token,
)
from rotators.airflow import Airflow, Copy, RotatedConnection, not_a_copy
from rotators.connection_secret import ConnectionSecret, parse
from rotators.credential import Credential, new_password
from rotators.databases import AdminSession, Role, UserSession
from rotators.decision import Trigger
from rotators.diagnosis import Diagnosis, Finding, connection_id_of, dates, state, tags
from rotators.errors import (
    DatabaseRefusedError,
    LockHeldError,
    PermanentError,
    RotationError,
    SecretNotFoundError,
    TransientError,
)
from rotators.journal import Invocation, write_log
from rotators.permissions import check_encryption, check_hosts, check_may_take_over, check_user
from rotators.policy import (
    ADMIN_FOR_TAG,
    MAXIMUM_TAGS,
    STATE_TAG,
    AdminSecret,
    AdminSelf,
    RotationPolicy,
    RotationState,
    admin_is_open_for,
    inherited_tags,
    next_tags,
    policy_and_complaints,
    policy_tags,
)
from rotators.rotation import (
    apply_to_other_user,
    current_of,
    in_use,
    next_connection,
    own_role,
    rotated_connection,
)
from rotators.systems import Systems
from rotators.vault import SecretVersion

# Somebody else's rotation is not waited for.
LOCK_PATIENCE = timedelta(milliseconds=200)
# While one of these tags is wrong, nobody knows whose rights are to be used on whom.
_WHO = ("rotation-strategy", "rotation-admin", "rotation-users")
# Findings, on the way to what later checks need; that is None where it could not be had.
type _Examination[T] = Generator[Finding, None, T]


def examine(systems: Systems, secret: str) -> Diagnosis:
    """Try every condition of a rotation of this secret, and change nothing.

    Raise SecretNotFoundError if there is no such secret, TransientError if Key Vault cannot be reached, and
    UnexpectedError for a fault of this program.
    """
    run = Invocation(systems, Trigger(kind="http", secret=secret, id=str(uuid.uuid4()), by="doctor", dry_run=True))
    diagnosis = run.guarded(lambda: Diagnosis(secret, tuple(_examination(run))))
    write_log(logging.INFO, "checked", secret=secret, ready=diagnosis.ready, mend=diagnosis.to_mend)
    return diagnosis


def _examination(run: Invocation) -> Iterator[Finding]:
    systems = run.systems
    value, versions = yield from _vault(systems, run.trigger.secret)
    # Its tags can be seen in the list too, where its value may not be read.
    secret = value or next(iter(versions), None)
    if secret is None:
        return
    yield from _tag_limits(run, secret)
    yield state(secret.tags, secret.state)
    if "rotation-strategy" not in secret.tags:
        yield from _not_managed(systems, secret, versions, is_readable=value is not None)
        return
    policy, complaints = policy_and_complaints(secret.name, secret.tags, prefix=systems.settings.connections_prefix)
    yield from tags(policy, complaints)
    yield from dates(secret.name, current_of(secret), policy, systems.now())
    knows_who = not any(one.startswith(_WHO) for one in complaints)
    found = [*_rotation(run, value, policy, knows_who=knows_who)]
    yield from found
    for check in _applicable(systems, policy):
        if check not in {one.check for one in found}:
            yield Finding(check, "not tried", "it waits for what is said above")


def _rotation(
    run: Invocation, secret: SecretVersion | None, policy: RotationPolicy, *, knows_who: bool
) -> Iterator[Finding]:
    """Go the way of a rotation, as far as it leads. `secret` is None when its value may not be read."""
    systems, managed, pair = run.systems, None, None
    if secret is not None:
        managed = yield from _ask("format", lambda: read_connection(systems, secret, policy), _format)
    if managed is not None and knows_who:
        pair = yield from _pair(managed)
        leads_where_it_says = yield from _options(managed)
        if leads_where_it_says:
            yield from _next_version(managed, managed.other_user if pair and len(pair) > 1 else managed.user)
        reachable = yield from _admin(systems, managed)
        if reachable is not None and leads_where_it_says:
            yield from _database(systems, reachable, pair)
    yield from _airflow(run, policy, managed if pair else None)
    if systems.topic is None:
        yield Finding("topic", "remark", "no EVENT_GRID_TOPIC_ENDPOINT is set, so outcomes are in the log alone")
    else:
        yield Finding("topic", "not tried", "whether the topic takes outcome events shows with the first one")


def _applicable(systems: Systems, policy: RotationPolicy) -> Iterator[str]:
    """Yield the checks that this policy gives rise to, beyond those that are always made."""
    yield from ("format", "next-version")
    if isinstance(policy.admin, AdminSecret):
        yield from ("admin-secret", "admin-format", "admin-tls")
    yield from ("address", "tls", "options", "current-login", "admin-login", "lock")
    yield from ("current-user", "current-user-rights", "revoke")
    if policy.strategy == "alternating-users":
        yield from ("pair", "other-user", "other-user-rights", "sessions")
    if policy.connection_id is not None and systems.airflow is not None:
        yield from ("airflow", "airflow-logs", "airflow-clearing", "airflow-dags", "airflow-connection")


def _ask[T](check: str, question: Callable[[], T], say: Callable[[T], str | Finding]) -> _Examination[T | None]:
    """Yield what is said about the answer, or the error that says what to mend; return the answer."""
    try:
        answer = question()
    except RotationError as error:
        yield Finding(check, "mend", str(error))
        return None
    said = say(answer)
    yield said if isinstance(said, Finding) else Finding(check, "fine", said)
    return answer


def _is_so(check: str, question: Callable[[], None], detail: str) -> _Examination[bool]:
    """As `_ask`, for a question whose answer is that it raises nothing."""

    def asked() -> bool:
        question()
        return True

    return bool((yield from _ask(check, asked, lambda _: detail)))


# -- Key Vault and the tags -----------------------------------------------------------------------------------


def _vault(systems: Systems, name: str) -> _Examination[tuple[SecretVersion | None, list[SecretVersion]]]:
    """Return the current version if it may be read, and all versions, without values, if they may be listed."""
    secret: SecretVersion | None = None
    versions: list[SecretVersion] = []
    try:
        secret = systems.vault.current(name)
    except SecretNotFoundError:
        raise
    except PermanentError as error:
        yield Finding("vault-get", "mend", str(error))
    else:
        yield Finding("vault-get", "fine", f"version {secret.version} is read")
    try:
        versions = systems.vault.versions(name)
    except SecretNotFoundError:
        raise
    except RotationError as error:
        yield Finding("vault-list", "mend", str(error))
    else:
        if secret is None and not versions:
            # A list of the versions of nothing is empty, whether or not values may be read.
            raise SecretNotFoundError(f"secret {name!r} was not found in the key vault")
        yield Finding("vault-list", "fine", f"its versions are listed: {len(versions)}")
    yield Finding("vault-write", "not tried", "only writing proves that the app's identity has set and update as well")
    return secret, versions


def _tag_limits(run: Invocation, secret: SecretVersion) -> _Examination[None]:
    yield from _ask(
        "tag-limits",
        lambda: next_tags(secret.name, secret.tags, _some_state(run, secret), {}),
        lambda tags: f"with {STATE_TAG} it has {len(tags)} tags of the {MAXIMUM_TAGS} that Key Vault allows",
    )


def _some_state(run: Invocation, secret: SecretVersion) -> RotationState:
    """Return a state like that of a rotation, with everything in it."""
    now = run.systems.now()
    trigger = run.trigger
    return RotationState(
        trigger.id, run.cause, trigger.by, secret.version, now, ("verify", "refresh"), retire_at=now, retired=now
    )


def _not_managed(
    systems: Systems, secret: SecretVersion, versions: list[SecretVersion], *, is_readable: bool
) -> _Examination[None]:
    """Say which tags would put it under rotation; nothing else is tried for a secret that did not opt in."""
    connection = None
    if is_readable:
        connection = yield from _ask(
            "format", lambda: parse(secret.value, secret=secret.name, tags=secret.tags), _format_of
        )
    before = next((v for v in versions if v.version != secret.version and "rotation-strategy" in v.tags), None)
    if before is not None:
        listed = " ".join(f"{name}={value!r}" for name, value in inherited_tags(policy_tags(before.tags)).items())
        detail = f"it lost its tags with version {secret.version}, so nothing rotates it; give them back: {listed}"
    else:
        try:
            proposal = _proposal(systems, secret, connection)
        except RotationError as error:
            proposal = f"rotation-strategy and rotation-admin ({error})"
        detail = f"it has no tag rotation-strategy, so nothing rotates it; to put it under rotation add {proposal}"
    yield Finding("tags", "mend", detail)


def _proposal(systems: Systems, secret: SecretVersion, connection: ConnectionSecret | None) -> str:
    alone = "rotation-strategy=single-user rotation-admin=self"
    if ADMIN_FOR_TAG in secret.tags:
        return f"{alone}, since an admin's own secret is rotated with its own rights"
    if connection is not None and connection.database is None:
        return f"{alone}, or write a database into its value first, which two users that take turns need"
    admins = [s.name for s in systems.vault.secrets() if admin_is_open_for(secret.name, s.tags)]
    if admins:
        return f"rotation-strategy=alternating-users rotation-admin={admins[0]}, whose {ADMIN_FOR_TAG} names it"
    return (
        f"{alone}; or, so that the credential in use is never touched, rotation-strategy=alternating-users and as "
        f"rotation-admin a secret with an admin's connection, whose tag {ADMIN_FOR_TAG} names {secret.name}"
    )


# -- the value, and the way to the server ---------------------------------------------------------------------


def _format(managed: Managed) -> str:
    return _format_of(managed.connection)


def _format_of(connection: ConnectionSecret) -> str:
    return f"its value is read as {connection.format}, of user {connection.credential.user!r}"


def _pair(managed: Managed) -> _Examination[tuple[str, ...] | None]:
    """Return the users that take turns, the owner first; one alone for single-user."""
    if managed.policy.strategy == "single-user":
        return (managed.user,)
    return (yield from _ask("pair", lambda: managed.pair, lambda pair: f"{pair[0]!r} and {pair[1]!r} take turns"))


def _options(managed: Managed) -> _Examination[bool]:
    return (
        yield from _is_so(
            "options",
            lambda: managed.engine.check(managed.connection, secret=managed.secret.name),
            "none of the connection's options leads elsewhere",
        )
    )


def _next_version(managed: Managed, user: str) -> _Examination[None]:
    yield from _ask(
        "next-version",
        lambda: next_connection(managed, Credential(user, new_password())),
        lambda new: f"its format holds the next credential, of user {new.credential.user!r}",
    )


def _admin(systems: Systems, managed: Managed) -> _Examination[Managed | None]:
    """Return the secret with its admin, when credentials may be sent where the two lead."""
    name, settings = managed.secret.name, systems.settings
    if isinstance(managed.policy.admin, AdminSecret):
        admin_name = managed.policy.admin.name
        admin_secret = yield from _ask(
            "admin-secret",
            lambda: open_admin_secret(systems, name, admin_name),
            lambda _: f"{admin_name!r} is there and open for it",
        )
        if admin_secret is None:
            return None
        admin = yield from _ask("admin-format", lambda: read_admin_secret(admin_secret), _format_of)
        if admin is None:
            return None
        managed = dataclasses.replace(managed, admin=admin)
        is_encrypted = yield from _is_so(
            "admin-tls",
            lambda: check_encryption(admin_name, admin, min_sslmode=settings.min_sslmode),
            _encryption(admin),
        )
    else:
        is_encrypted = True
    connection = managed.connection
    may_go_there = yield from _is_so(
        "address",
        lambda: check_hosts(name, connection, trusted=managed.trusted, allowed_hosts=settings.allowed_hosts),
        f"credentials may go to {', '.join(f'{a.host}:{a.port}' for a in connection.addresses)}",
    )
    is_encrypted &= yield from _is_so(
        "tls",
        lambda: check_encryption(name, connection, min_sslmode=settings.min_sslmode),
        _encryption(connection),
    )
    return managed if may_go_there and is_encrypted else None


def _encryption(connection: ConnectionSecret) -> str:
    return f"sslmode {connection.options.get('sslmode', 'prefer')!r} is enough for where it leads"


# -- the database ---------------------------------------------------------------------------------------------


def _database(systems: Systems, managed: Managed, pair: tuple[str, ...] | None) -> _Examination[None]:
    user = managed.user
    verified = yield from _ask(
        "current-login",
        lambda: _current_login(managed, managed.acts_as if pair else None),
        lambda warnings: Finding("current-login", "remark", "; ".join(warnings)) if warnings else f"{user!r} logs in",
    )
    opened = yield from _ask(
        "admin-login",
        lambda: log_in(systems, with_token(systems, managed)),
        lambda opened: _admin_login(managed, *opened),
    )
    if opened is None:
        return
    with opened[0] as admin:
        is_free = yield from _ask("lock", lambda: _is_free(systems, managed, admin), _lock)
        if is_free and pair is not None:
            yield from _users(managed, admin, pair, is_proven=verified is not None)


def _current_login(managed: Managed, acts_as: str | None) -> tuple[str, ...]:
    warnings = managed.engine.verify(managed.connection, secret=managed.secret.name, acts_as=acts_as)
    with suppress(DatabaseRefusedError, TransientError):  # behind a pooler users may have no other way
        refuse_another_server(managed)
    return warnings


def _is_free(systems: Systems, managed: Managed, admin: AdminSession) -> bool:
    """Take the lock, and see that nobody has rotated since the secret was read."""
    try:
        admin.lock(managed.identifier, wait=LOCK_PATIENCE)
    except LockHeldError:
        return False
    return systems.vault.current(managed.secret.name).version == managed.secret.version


def _lock(is_free: bool) -> str | Finding:
    if is_free:
        return "nobody else is rotating it"
    return Finding("lock", "remark", "somebody is rotating it right now: ask again when that is over")


def _admin_login(managed: Managed, admin: AdminSession, connection: ConnectionSecret) -> str | Finding:
    if isinstance(managed.policy.admin, AdminSelf) and connection.credential != managed.connection.credential:
        detail = f"{admin.user!r} logs in with the password of an earlier version; a rotation mends that first"
        return Finding("admin-login", "remark", detail)
    return f"{admin.user!r} logs in"


def _users(managed: Managed, admin: AdminSession, pair: tuple[str, ...], *, is_proven: bool) -> _Examination[None]:
    """Ask whether these users may be changed for this secret, and try whether the admin can."""
    roles = yield from _ask("current-user", lambda: _roles(managed, admin, pair), lambda roles: _mark(managed, roles))
    if roles is None:
        return
    is_proven = is_proven or isinstance(managed.policy.admin, AdminSelf) or roles[managed.user].claimed_by is not None
    if is_proven:
        yield from _is_so(
            "current-user-rights",
            lambda: _try_current_user(managed, admin, roles),
            f"{admin.user!r} may change the password of {managed.user!r} (tried, and taken back)",
        )
    if managed.policy.strategy == "alternating-users":
        yield from _other_user(managed, admin, roles, is_proven=is_proven)
    try:
        admin.check_may_end_sessions(managed.user)
        yield Finding("revoke", "fine", f"{admin.user!r} may end the sessions of {managed.user!r}")
    except RotationError as error:
        yield Finding("revoke", "remark", f"{error}, should revoke ever have to end sessions")


def _roles(managed: Managed, admin: AdminSession, pair: tuple[str, ...]) -> dict[str, Role]:
    """Return those of the pair that exist; raise as `own_role` unless the current one may be changed."""
    roles = admin.roles(pair)
    if not isinstance(managed.policy.admin, AdminSelf):
        own_role(managed, roles, admin.user)
    return roles


def _mark(managed: Managed, roles: Mapping[str, Role]) -> str:
    if isinstance(managed.policy.admin, AdminSelf):
        return f"{managed.user!r} changes its own password, with its own rights alone"
    if roles[managed.user].claimed_by is not None:
        return f"the comment of {managed.user!r} says that it is this secret's"
    return f"{managed.user!r} is nobody's so far; the first rotation writes into its comment that it is this secret's"


def _other_user(
    managed: Managed, admin: AdminSession, roles: Mapping[str, Role], *, is_proven: bool
) -> _Examination[None]:
    user = managed.other_user

    def check_pair() -> None:
        for role in roles.values():
            check_user(managed.secret.name, managed.identifier, role, admin.user)
        check_may_take_over(managed.secret.name, managed.pair, user, roles)

    is_ours = yield from _is_so(
        "other-user", check_pair, f"{user!r} {'is next' if user in roles else 'does not exist yet, and is created'}"
    )
    if is_ours and is_proven:
        yield from _is_so(
            "other-user-rights",
            lambda: _try_other_user(managed, admin, roles),
            f"{admin.user!r} may {'change' if user in roles else 'create'} {user!r} (tried, and taken back)",
        )
    if is_ours:
        sessions = (lambda: admin.sessions(user)) if user in roles else tuple[UserSession, ...]
        yield from _ask("sessions", sessions, lambda found: _sessions(managed, found))


def _sessions(managed: Managed, sessions: tuple[UserSession, ...]) -> str | Finding:
    if not sessions:
        return f"nobody uses {managed.other_user!r}"
    then = "waits until they end" if managed.policy.waits_for_sessions else "goes on, and their next login fails"
    return Finding("sessions", "remark", f"{in_use(managed.other_user, sessions)}; a rotation {then}")


class _TakenBackError(Exception):
    """Ends a trial; never leaves this module."""


@contextmanager
def _taken_back(admin: AdminSession) -> Iterator[None]:
    """What is done inside is done, and undone at its end, also when it goes well."""
    with suppress(_TakenBackError), admin.transaction():
        yield
        raise _TakenBackError


def _try_current_user(managed: Managed, admin: AdminSession, roles: Mapping[str, Role]) -> None:
    """As single-user does it, as the other user's turn will, and as a version by hand may need at once."""
    with _taken_back(admin):
        if not isinstance(managed.policy.admin, AdminSelf) and roles[managed.user].claimed_by is None:
            admin.claim(managed.user, managed.identifier)
        admin.set_password(Credential(managed.user, new_password()))


def _try_other_user(managed: Managed, admin: AdminSession, roles: Mapping[str, Role]) -> None:
    """As the next rotation does it, and then what its login would find; nobody can log in as what is taken back."""
    user = managed.other_user
    with _taken_back(admin):
        apply_to_other_user(managed, admin, roles, Credential(user, new_password()))
        hindrances = admin.hindrances(
            user,
            database=managed.connection.database,
            acts_as=managed.pair[0] if user != managed.pair[0] else None,
        )
        if hindrances:
            raise DatabaseRefusedError(f"secret {managed.secret.name!r}: {'; '.join(hindrances)}")


# -- Airflow --------------------------------------------------------------------------------------------------


def _airflow(run: Invocation, policy: RotationPolicy, managed: Managed | None) -> _Examination[None]:
    """Ask what a refresh needs. `managed` is None when it is not known what a copy of the connection looks like."""
    systems = run.systems
    airflow, connection_id = systems.airflow, policy.connection_id
    if connection_id is None:
        yield Finding("connection-id", "fine", "its name has not Airflow's prefix, so Airflow has no part in it")
        return
    yield connection_id_of(run.trigger.secret, connection_id, systems.settings.connections_prefix)
    if airflow is None:
        yield Finding("airflow", "remark", "no AIRFLOW_URL is set, so stale copies and failed tasks stay as they are")
        return
    if not (yield from _is_so("airflow", airflow.check, "it is Airflow 3, lets us in, and shows its tasks")):
        return
    yield from _ask("airflow-logs", airflow.check_logs, lambda known: _known("airflow-logs", "read logs", known))
    yield from _ask(
        "airflow-clearing", airflow.check_clearing, lambda known: _known("airflow-clearing", "clear tasks", known)
    )
    yield from _ask("airflow-dags", lambda: airflow.missing_dags(policy.dags), lambda gone: _dags(policy, gone))
    if managed is not None:
        rotated = rotated_connection(managed, managed.secret.state or _some_state(run, managed.secret))
        if rotated is not None:
            yield from _copies(airflow, rotated)


def _known(check: str, what: str, known: bool) -> str | Finding:
    if known:
        return f"we may {what} there"
    return Finding(check, "not tried", f"no task has ended there yet, on which to try whether we may {what}")


def _dags(policy: RotationPolicy, missing: tuple[str, ...]) -> str | Finding:
    if missing:
        return Finding("airflow-dags", "remark", f"airflow-dags names what Airflow has not: {', '.join(missing)}")
    return "every DAG that airflow-dags names is there" if policy.dags else "failed tasks are looked for in all DAGs"


def _copies(airflow: Airflow, rotated: RotatedConnection) -> _Examination[None]:
    treatment = {
        "clear": "the next rotation deletes it",
        "update": "the next rotation updates it",
        "keep": "AIRFLOW_CONNECTIONS is 'keep', so it keeps its old password: update it by hand after each rotation",
    }[airflow.treatment]

    def say(copies: tuple[Copy, ...] | None) -> str | Finding:
        if copies is None:
            return "copies in the metastore are kept, and not shown to us"
        said = [
            not_a_copy(copy.name, copy.differences, "it is left alone")
            if copy.differences
            else f"Airflow's metastore has a copy {copy.name!r} for user {copy.login!r}, which is used when Key Vault "
            f"does not answer; {treatment}"
            for copy in copies
        ]
        return Finding("airflow-connection", "remark", "; ".join(said)) if said else "Airflow's metastore has no copy"

    yield from _ask("airflow-connection", lambda: airflow.copies(rotated), say)
