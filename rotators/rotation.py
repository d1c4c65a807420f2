"""The flow: trigger -> decide -> create -> apply -> verify -> publish -> refresh -> Outcome."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotators.access import Managed, locked, look_again, look_up_again, refuse_another_server
from rotators.airflow import RotatedConnection
from rotators.connection_secret import ConnectionSecret
from rotators.credential import Credential, new_password
from rotators.databases import AdminSession, Role, Users, UserSession
from rotators.decision import NOT_MANAGED, Current, Resume, RollBack, Rotate, Skip, Trigger, decide
from rotators.errors import (
    BadRequestError,
    DatabaseRefusedError,
    LoginRefusedError,
    PermanentError,
    RotationError,
    SecretFormatError,
    ThrottledError,
    TransientError,
    UnfinishedError,
)
from rotators.journal import Invocation, report, told_as
from rotators.outcome import AirflowReport, Outcome, Status, timestamp
from rotators.permissions import check_may_take_over, check_user
from rotators.policy import (
    STATE_TAG,
    AdminSelf,
    PendingStep,
    RotationPolicy,
    RotationState,
    next_tags,
    policy_tags,
    read_policy,
)
from rotators.reconciliation import (
    inherit_policy,
    newcomer,
    state_by_hand,
    verify_or_reconcile,
    versions_before,
    write_state,
)
from rotators.retirement import revoke
from rotators.rollback import former_credential, prove
from rotators.systems import Systems
from rotators.vault import SecretVersion

# So long after it was seen a lock is taken as held: the writing that follows may take as long by itself.
LOCK_IS_KNOWN_FOR = timedelta(seconds=1)
# Key Vault counts writes in windows of 10 s, and what it refuses does not count: who waits here for a window gets the
# next free place. An event that is given back comes after 10 s at the earliest, begins anew, and if refused again,
# after 30 s.
_PAUSES_OF_THE_THROTTLED = (1.0, 2.0, 4.0, 4.0)


@told_as("rotation")
def rotate(systems: Systems, trigger: Trigger) -> Outcome:
    """Do what the trigger asks for, and return what was done.

    Raise PermanentError when trying again would not help (it has been logged and published then), TransientError
    when it may, and UnexpectedError for a fault of this program.
    """
    run = Invocation(systems, trigger)
    try:
        outcome = run.guarded(_rotate_and_finish, run)
    except PermanentError as error:
        if not trigger.dry_run:  # else nothing failed: it was asked what would happen, and that is the answer
            report(systems, run.failed(error))
        raise
    except TransientError as error:
        run.delayed(error)
        raise
    return report(systems, outcome)


def _rotate_and_finish(run: Invocation) -> Outcome:
    try:
        return _rotate(run)
    except UnfinishedError as error:
        # The new version is published and something failed after it: what a redelivery would do, but now.
        run.warn(str(error))
    # And should somebody have written a version since, this one's cause is not to make another.
    run.trigger = dataclasses.replace(run.trigger, version=None, is_repeatable=True)
    outcome = _rotate(run)
    return dataclasses.replace(outcome, status="rotated", obstacle=None) if outcome.obstacle == "done" else outcome


def _rotate(run: Invocation) -> Outcome:  # noqa: PLR0911 (one return a decision)
    systems, trigger = run.systems, run.trigger
    with run.step("read"):
        as_written, secret = _read(run)
    then = _made_before(run, secret)
    if then is not None and then is not secret:
        return run.skipped(then, None, Skip("done", "with the same idempotency key, and another came after it"))
    decided = _decide(run, secret)
    if isinstance(decided, Outcome):
        return decided
    policy, decision = decided
    with ExitStack() as session:
        with run.step("lock"):
            managed, admin, logged_in_with = session.enter_context(locked(systems, secret, policy))
        with run.step("read again"):
            again, users = look_again(systems, managed, admin, managed.users)
        secret = _as_believed(again, as_written, secret)
        decided = _decide(run, secret)
        if isinstance(decided, Outcome):
            return decided
        policy, decision = decided
        before, managed = managed, look_up_again(systems, secret, policy, managed)
        if managed.users != before.users:
            users = admin.look(managed.users, lock=managed.identifier)
        if logged_in_with.credential != managed.connection.credential and isinstance(policy.admin, AdminSelf):
            if trigger.dry_run:
                return run.outcome(managed, "planned", "its password would be mended first", state=secret.state)
            # Else the next rotation, were it killed too, would leave the password that works two versions behind.
            verify_or_reconcile(run, managed, admin)
        if isinstance(decision, Resume):
            return _resume(run, managed, admin, decision)
        if isinstance(decision, RollBack):
            return _roll_back(run, managed, admin, decision)
        if policy.strategy == "single-user":
            return _rotate_single_user(run, managed, admin, users, decision)
        return _rotate_alternating_users(run, managed, admin, users, decision)


def _read(run: Invocation) -> tuple[SecretVersion, SecretVersion]:
    """Return the current version as it is written, and as what it is to be believed."""
    secret = run.systems.vault.current(run.trigger.secret)
    if run.trigger.kind != "new-version" or run.trigger.version != secret.version:
        return secret, secret
    secret = inherit_policy(run, secret)
    return secret, newcomer(run.systems, secret)


def _as_believed(secret: SecretVersion, as_written: SecretVersion, believed: SecretVersion) -> SecretVersion:
    """Return a version that was read again; its state is believed as before, unless somebody wrote another."""
    if believed is as_written or secret.version != as_written.version or secret.state != as_written.state:
        return secret
    state = {STATE_TAG: believed.tags[STATE_TAG]} if STATE_TAG in believed.tags else {}
    return dataclasses.replace(secret, tags={**policy_tags(secret.tags), **state})


def _decide(run: Invocation, secret: SecretVersion) -> tuple[RotationPolicy, Rotate | RollBack | Resume] | Outcome:
    policy = read_policy(secret.name, secret.tags, prefix=run.systems.settings.connections_prefix)
    if policy is None:
        return run.skipped(secret, policy, NOT_MANAGED)
    decision = decide(run.trigger, current_of(secret), policy, run.systems.now())
    return run.skipped(secret, policy, decision) if isinstance(decision, Skip) else (policy, decision)


def current_of(secret: SecretVersion) -> Current:
    return Current(secret.version, secret.created, secret.expires, secret.state)


def _made_before(run: Invocation, current: SecretVersion) -> SecretVersion | None:
    """Return the version that this trigger, or an earlier request with the same idempotency key, has made.

    Raise BadRequestError if that request did not revoke, and this one does.
    """
    then = current if _made(run, current) else None
    if then is None and run.trigger.is_repeatable:
        then = next((version for version in run.systems.vault.versions(current.name) if _made(run, version)), None)
        if then is not None and then.state is not None and then.state.revokes and then.state.retired is None:
            # Another came before the leaked credential was locked out: that is still to be done, from the newest on.
            return None
    if then is not None and run.trigger.revoke and then.state is not None and not then.state.revokes:
        raise BadRequestError(
            f"secret {then.name!r}: with the same idempotency key it was rotated before, and nothing was revoked; "
            "revoke with another key"
        )
    return then


def _made(run: Invocation, version: SecretVersion) -> bool:
    state = version.state
    return state is not None and (state.id, state.cause) == (run.trigger.id, run.cause)


# -- the two strategies ---------------------------------------------------------------------------------------


def _rotate_alternating_users(
    run: Invocation, managed: Managed, admin: AdminSession, users: Users, decision: Rotate
) -> Outcome:
    """Give the user that is not in use a new password, prove it, and make it the current one."""
    name, policy, user = managed.secret.name, managed.policy, managed.other_user
    new, roles = _create(run, managed, user), users.roles
    with run.step("inspect"):
        for role in roles.values():
            check_user(name, managed.identifier, role, admin.user)
        check_may_take_over(name, managed.pair, user, roles)
        sessions = users.sessions[user]
        if sessions and policy.waits_for_sessions and not run.trigger.revoke:
            return run.skipped(managed.secret, policy, Skip("in use", in_use(user, sessions)))
        if sessions:
            run.warn(in_use(user, sessions))
        _warn_of_settings(run, managed.pair, users)
        if not _is_claimed(managed.user, roles):
            _prove_ownership(managed)
    if run.trigger.dry_run:
        return _planned(run, managed, new, decision)
    following = dataclasses.replace(managed, connection=new.connection)
    with managed.engine.reach(new.connection, secret=name) as verify:
        # A password alone changes at once by itself; with marks, or a new user, it is all of it or nothing.
        is_marked = all(_is_claimed(of_pair, roles) for of_pair in managed.pair)
        with run.step("apply"), nullcontext() if is_marked else admin.transaction():
            apply_to_other_user(managed, admin, roles, new.connection.credential)
        verified_from = time.monotonic()
        with run.step("verify"):
            # In the moment before publishing; after it would be a round trip more.
            found = verify(acts_as=following.acts_as, meanwhile=lambda: admin.assert_locked(managed.identifier))
    run.warn(*found)
    with run.step("publish"):
        published = _publish(run, managed, admin, new, locked_at=verified_from)
        following = dataclasses.replace(following, secret=published)
    return _finish_if_newest(run, following, admin, decision)


def _warn_of_settings(run: Invocation, pair: tuple[str, str], users: Users) -> None:
    """Say what sessions of the two begin with differently: tasks would find it changed at each rotation."""
    first, second = pair
    if first not in users.roles or second not in users.roles:
        return  # who is made gets the settings of the other
    if names := sorted({name for name, _ in users.settings[first] ^ users.settings[second]}):
        run.warn(f"{first!r} and {second!r} have different settings ({', '.join(names)}): ALTER ROLE one of them")


def apply_to_other_user(
    managed: Managed, admin: AdminSession, roles: Mapping[str, Role], credential: Credential
) -> None:
    """Let the user whose turn it is log in with this credential, and mark both as this secret's."""
    if not _is_claimed(managed.user, roles):
        admin.claim(managed.user, managed.identifier)
    if credential.user not in roles:
        admin.create_second(managed.pair[0], credential, claim=managed.identifier)
    else:
        if not _is_claimed(credential.user, roles):
            admin.claim(credential.user, managed.identifier)
        admin.set_password(credential)


def _is_claimed(user: str, roles: Mapping[str, Role]) -> bool:
    return user in roles and roles[user].claimed_by is not None


def _rotate_single_user(
    run: Invocation, managed: Managed, admin: AdminSession, users: Users, decision: Rotate
) -> Outcome:
    """Change the one user's password in a transaction that commits when the new version is published."""
    new = _create(run, managed, managed.user)
    with run.step("inspect"):
        is_claimed = _is_claimed_or_proven(managed, users.roles, admin.user)
        if is_claimed:
            _refuse_unusable(managed)
    if run.trigger.dry_run:
        return _planned(run, managed, new, decision)
    published: SecretVersion | None = None
    try:
        with run.step("apply"):
            if not is_claimed:
                # Committed by itself: killed before the commit below, only a user with this mark is reconciled.
                admin.claim(managed.user, managed.identifier)
            with admin.transaction():
                admin.set_password(new.connection.credential)
                with run.step("publish"):
                    published = _publish(run, managed, admin, new)
    except TransientError as error:
        if published is None:
            raise
        raise UnfinishedError(f"published, but the database did not commit: {error}") from None
    following = dataclasses.replace(managed, secret=published, connection=new.connection)
    with run.step("verify"), _unfinished_on_failure():
        verify_or_reconcile(run, following, admin)
    return _finish_if_newest(run, following, admin, decision)


def _roll_back(run: Invocation, managed: Managed, admin: AdminSession, decision: RollBack) -> Outcome:
    """Make the credential of before the current one again; no user is changed, so a kill leaves nothing half done."""
    with run.step("read before"):
        before = former_credential(run.systems, managed, decision.version)
    if isinstance(before, Skip):
        return run.skipped(managed.secret, managed.policy, before)
    new = _new_version(run, managed, before.credential, expires=before.expires)
    following = dataclasses.replace(managed, connection=new.connection)
    with run.step("verify"):
        run.warn(*prove(following))
    if run.trigger.dry_run:
        return _planned(run, managed, new, decision)
    with run.step("publish"):
        following = dataclasses.replace(following, secret=_publish(run, managed, admin, new))
    return _finish_if_newest(run, following, admin, decision)


def _is_claimed_or_proven(managed: Managed, roles: Mapping[str, Role], admin_user: str) -> bool:
    """Return whether the user carries this secret's mark; with `self` nothing is borrowed, and no mark needed."""
    if isinstance(managed.policy.admin, AdminSelf):
        return True
    role = own_role(managed, roles, admin_user)
    if role.claimed_by is None:
        _prove_ownership(managed)
    return role.claimed_by is not None


def own_role(managed: Managed, roles: Mapping[str, Role], admin_user: str) -> Role:
    """Return the role of the current user, on which an admin's rights may be used.

    Raise LoginRefusedError if there is none, PolicyError if they may not.
    """
    role = roles.get(managed.user)
    if role is None:
        raise LoginRefusedError(
            f"secret {managed.secret.name!r}: user {managed.user!r} does not exist in the database; create it with "
            "the password that the secret says"
        )
    check_user(managed.secret.name, managed.identifier, role, admin_user)
    return role


def _prove_ownership(managed: Managed) -> None:
    """At the first rotation the current credential must log in: whoever wrote the secret owns the user."""
    try:
        managed.engine.verify(managed.connection, secret=managed.secret.name)
    except LoginRefusedError as error:
        failure = LoginRefusedError(
            f"{error}; before the first rotation the secret must hold a credential that logs in, which proves that "
            "its writer owns the user"
        )
    else:
        refuse_another_server(managed)
        return
    raise failure


def _refuse_unusable(managed: Managed) -> None:
    """A connection whose options no password mends is refused before a new one is set and published.

    With alternating users what is about to be published is tried anyway, on the user that is not in use.
    """
    try:
        managed.engine.verify(managed.connection, secret=managed.secret.name)
    except (LoginRefusedError, TransientError):
        # A new password mends the one; the other, were it a user at its connection limit, is no reason to wait.
        return
    with suppress(DatabaseRefusedError, TransientError):  # behind a pooler users may have no other way
        refuse_another_server(managed)


def in_use(user: str, sessions: tuple[UserSession, ...]) -> str:
    """Say who still uses the user, as far as the admin may see (it needs `pg_read_all_stats` for more)."""
    known = {(s.application or "unnamed") + (f" at {s.address}" if s.address else "") for s in sessions}
    since = f" since {timestamp(sessions[0].since)}" if sessions[0].since else ""
    return f"{len(sessions)} open sessions of {user!r}{since}: {', '.join(sorted(known)[:5])}"


# -- create and publish ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What is going to be published."""

    connection: ConnectionSecret
    tags: Mapping[str, str]
    state: RotationState
    expires: datetime


def _create(run: Invocation, managed: Managed, user: str) -> NewVersion:
    return _new_version(run, managed, Credential(user, new_password()))


def _new_version(
    run: Invocation, managed: Managed, credential: Credential, *, expires: datetime | None = None
) -> NewVersion:
    """Return the version that names `credential`; it lives as long as the policy says, or until `expires`."""
    now, policy = run.systems.now(), managed.policy
    connection = next_connection(managed, credential)
    pending: list[PendingStep] = ["verify"] if policy.strategy == "single-user" else []
    if run.systems.airflow is not None and policy.connection_id is not None:
        pending.append("refresh")
    state = RotationState(
        id=run.trigger.id,
        cause=run.cause,
        by=run.trigger.by,
        from_version=managed.secret.version,
        at=now,
        pending=tuple(pending),
        retire_at=now if run.trigger.revoke else now + policy.grace,
        reason=run.trigger.reason,
    )
    tags = next_tags(managed.secret.name, managed.secret.tags, state, connection.tags())
    return NewVersion(connection, tags, state, expires or now + policy.validity)


def next_connection(managed: Managed, credential: Credential) -> ConnectionSecret:
    """Return the connection with another credential.

    Raise SecretFormatError if its format cannot say that, PolicyError if the server would not take it.
    """
    if managed.policy.strategy == "alternating-users" and managed.connection.database is None:
        raise SecretFormatError(
            f"secret {managed.secret.name!r}: its connection names no database, so each of the two users would get "
            "one of its own name; write the database into the secret"
        )
    connection = managed.connection.with_credential(credential)
    managed.engine.check(connection, secret=managed.secret.name)
    return connection


def _publish(
    run: Invocation, managed: Managed, admin: AdminSession, new: NewVersion, *, locked_at: float = -math.inf
) -> SecretVersion:
    """Write the version while the lock is known to be held; for a throttled Key Vault wait a little, some times.

    `locked_at`, of `time.monotonic`: since then the lock has been seen.
    """

    def publish(new: NewVersion) -> SecretVersion:
        if time.monotonic() - locked_at > LOCK_IS_KNOWN_FOR.total_seconds():
            admin.assert_locked(managed.identifier)
        return run.systems.vault.publish(managed.secret, new.connection.render(), tags=new.tags, expires=new.expires)

    for pause in _PAUSES_OF_THE_THROTTLED:
        with suppress(ThrottledError):
            return publish(new)
        time.sleep(pause)
        # A version that is younger by far than its state says would be taken for a write that came late.
        new = _new_version(run, managed, new.connection.credential, expires=new.expires)
    return publish(new)


def _planned(run: Invocation, managed: Managed, new: NewVersion, decision: Rotate | RollBack) -> Outcome:
    return dataclasses.replace(
        run.outcome(managed, "planned", decision.reason, state=new.state),
        version=None,
        user=new.connection.credential.user,
        expires_on=new.expires,
    )


# -- after a version is current -------------------------------------------------------------------------------


def _resume(run: Invocation, managed: Managed, admin: AdminSession, decision: Resume) -> Outcome:
    """Finish the current version; one that a person wrote gets its state first, so that this can be resumed too."""
    if run.trigger.dry_run:
        return run.outcome(managed, "planned", decision.reason, state=managed.secret.state)
    if managed.secret.state is None:
        managed = dataclasses.replace(managed, secret=_with_state(run, managed))
    with run.step("verify"):
        # Whatever is pending: what was left unfinished may have been overtaken, by a person or by a late write.
        verify_or_reconcile(run, managed, admin)
    return _finish(run, managed, admin, "resumed", decision.reason)


def _with_state(run: Invocation, managed: Managed) -> SecretVersion:
    secret = managed.secret
    state = state_by_hand(run, managed.policy, versions_before(run.systems, secret))
    tags = next_tags(secret.name, secret.tags, state, {})
    run.systems.vault.write_tags(secret.name, secret.version, tags)
    return dataclasses.replace(secret, tags=tags)


def _finish_if_newest(run: Invocation, managed: Managed, admin: AdminSession, decision: Rotate | RollBack) -> Outcome:
    """Key Vault has no compare-and-set: when a person wrote a version in the same moment, theirs has to work."""
    with run.step("check newest"), _unfinished_on_failure():
        newest = run.systems.vault.current(managed.secret.name)
        if newest.version != managed.secret.version:
            policy = read_policy(newest.name, newest.tags, prefix=run.systems.settings.connections_prefix)
            crossed = look_up_again(run.systems, newest, policy or managed.policy, managed)
            verify_or_reconcile(run, crossed, admin)
            if run.trigger.revoke:
                raise TransientError("somebody else wrote a version in the same moment; revoking once more")
            run.warn(f"version {newest.version}, written by somebody else in the same moment, is current now")
            return run.outcome(managed, "rotated", decision.reason, state=managed.secret.state)
    return _finish(run, managed, admin, "rotated", decision.reason)


def _finish(run: Invocation, managed: Managed, admin: AdminSession, status: Status, reason: str) -> Outcome:
    """Revoke what leaked, refresh Airflow, and note in the state what is done."""
    state = managed.secret.state
    if state is None:
        raise UnfinishedError(f"secret {managed.secret.name!r}: its state tag was taken away meanwhile")
    done = dataclasses.replace(state, pending=())
    failure: RotationError | None = None
    if state.revokes and state.retired is None:
        try:
            with run.step("revoke"), _unfinished_on_failure():
                revoke(run, managed, admin, state)
            done = dataclasses.replace(done, retired=run.systems.now())
        except RotationError as error:
            failure = error  # what is locked out already fails in Airflow, which must not wait for the rest
    airflow: AirflowReport | None = None
    if "refresh" in state.pending:
        with run.step("refresh"):
            airflow = _refresh(run, managed, state)
        run.warn(*airflow.warnings)
        if airflow.status in ("pending", "refused"):
            done = dataclasses.replace(done, pending=("refresh",))
    if failure is not None:
        raise failure
    if done != state:
        with run.step("note"):
            try:
                write_state(run.systems, managed.secret, done)
            except RotationError as error:
                run.warn(f"{error}; what is done could not be noted, so the sweep does it once more")
    return run.outcome(managed, status, reason, state=done, airflow=airflow)


def _refresh(run: Invocation, managed: Managed, state: RotationState) -> AirflowReport:
    """Refresh; an Airflow that is down delays this and never undoes the rotation, so nothing is raised."""
    rotated = rotated_connection(managed, state, usable_since=run.usable_since)
    if run.systems.airflow is None or rotated is None:
        return AirflowReport("none")
    try:
        return run.systems.airflow.refresh(rotated)
    except TransientError as error:
        return AirflowReport("pending", warnings=(str(error),))
    except PermanentError as error:
        return AirflowReport("refused", warnings=(str(error),))
    except Exception as error:  # noqa: BLE001 (the rotation is done and has to be reported, whatever Airflow answered)
        return AirflowReport("pending", warnings=(str(run.fault(error)),))


def rotated_connection(
    managed: Managed, state: RotationState, *, usable_since: datetime | None = None
) -> RotatedConnection | None:
    """Return what Airflow's module needs to know; None when Airflow has no part in this secret.

    `usable_since` is given where the version began to log in later than it was published.
    """
    if managed.policy.connection_id is None:
        return None
    connection = managed.connection
    return RotatedConnection(
        secret=managed.secret.name,
        connection_id=managed.policy.connection_id,
        engine=connection.engine,
        hosts=tuple(address.host for address in connection.addresses),
        ports=tuple(address.port for address in connection.addresses),
        database=connection.database,
        credential=connection.credential,
        users=frozenset(managed.users),
        rotation_id=state.id,
        version=managed.secret.version,
        # `created` is cut to whole seconds; a try that began in that second may have read the version before. And one
        # that began before the database followed was refused with the current one.
        published_at=max(managed.secret.created + timedelta(seconds=1), usable_since or managed.secret.created),
        dags=managed.policy.dags,
    )


@contextmanager
def _unfinished_on_failure() -> Iterator[None]:
    """Something transient after publishing: the rest can be resumed at once."""
    try:
        yield
    except TransientError as error:
        failure = UnfinishedError(f"published, and then: {error}", retry_after=error.retry_after)
    else:
        return
    raise failure
