"""A vault with secrets in every state that the page knows."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta

from rotators.outcome import timestamp
from rotators.policy import STATE_TAG
from rotators.rotation import rotate
from tests.world import ADMIN_SECRET, World

PREFIX = "airflow-connections-"
# The world's vault begins this far back, so that what is put first is due when its clock has caught up.
AGE = timedelta(days=61)


def arrange(here: World) -> dict[str, str]:
    """Put the secrets, while the world's clock catches up; return their names by what they are.

    `rotated` was rotated for real; `due`, `without script`, `by keyboard` and `paused` can be. The others show a state.
    """
    alternating = {"rotation-strategy": "alternating-users", "rotation-admin": ADMIN_SECRET}
    here.admin()

    def put(
        name: str, tags: Mapping[str, str], *, value: str = "postgresql://u:p@127.0.0.1/d", days: float = 90
    ) -> str:
        expires = here.clock.now() + timedelta(days=days)
        here.vault.put(PREFIX + name, value, tags=dict(tags), expires_on=expires)
        return PREFIX + name

    names = {
        "paused": put("payroll", {**alternating, "rotation-enabled": "false"}, value=here.user()),
    }
    here.clock.advance(timedelta(minutes=30))
    names["due"] = put("billing", {**alternating, "rotation-every": "61d"}, value=here.user(), days=91)
    for name in ("without script", "by keyboard", "not yours"):
        value, every = here.user(), {"rotation-every": "75d"}
        names[name] = put(name.replace(" ", "-"), {**alternating, **every}, value=value, days=120)
    here.clock.advance(timedelta(hours=23, minutes=30))
    names["overdue"] = put("telemetry-eu", {**alternating, "rotation-every": "40d"})
    here.clock.advance(timedelta(days=40))
    names["unusable policy"] = put("crm", {**alternating, "rotation-every": "60 days"})
    for number, days in enumerate((25, 27, 30, 30, 31, 36, 45)):
        names[f"fresh {number}"] = put(f"region-{number}", {**alternating, "rotation-every": f"{days}d"})
    here.clock.advance(timedelta(days=19, hours=23, minutes=30))
    names["pending"] = put("lake", alternating | state(here.clock.now(), pending=["refresh"]))
    names["failed"] = put("sales", alternating | state(here.clock.now() - timedelta(hours=30), pending=["verify"]))
    names["rotated"] = put("warehouse", {**alternating, "rotation-every": "20d"}, value=here.user())
    rotate(here.systems, here.trigger(names["rotated"], by="key"))
    here.clock.advance(timedelta(minutes=30))
    return names


def state(at: datetime, *, pending: list[str]) -> dict[str, str]:
    """Return a state tag as the program writes it."""
    retire_at = timestamp(at + timedelta(hours=24))
    tag = {"id": "8f1c", "cause": "near-expiry", "by": "event-grid", "at": timestamp(at), "retireAt": retire_at}
    return {STATE_TAG: json.dumps({**tag, "pending": pending})}
