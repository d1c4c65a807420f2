"""Each policy tag, wrong in each way: all tags of a secret, and what the complaint says about them."""

from collections.abc import Mapping

ALTERNATING: Mapping[str, str] = {"rotation-strategy": "alternating-users", "rotation-admin": "postgres-admin"}
SINGLE: Mapping[str, str] = {"rotation-strategy": "single-user", "rotation-admin": "postgres-admin"}


def _with(**tags: str) -> dict[str, str]:
    return {**ALTERNATING, **{name.replace("_", "-"): value for name, value in tags.items()}}


# `{secret}` stands for the name of the secret itself.
WRONG_TAGS: tuple[tuple[Mapping[str, str], str], ...] = (
    (_with(rotation_strategy="alternating"), "is 'alternating', expected 'alternating-users' or 'single-user'"),
    (_with(rotation_strategy="Single-User"), "is 'Single-User', expected 'alternating-users' or 'single-user'"),
    (_with(rotation_strategy=" "), "rotation-strategy is blank: give it a value or remove the tag"),
    ({"rotation-strategy": "alternating-users"}, "rotation-admin is missing: name the secret with an admin's"),
    (_with(rotation_admin=""), "rotation-admin is blank"),
    ({**SINGLE, "rotation-admin": " "}, "rotation-admin is blank"),
    (_with(rotation_admin="self"), "rotation-admin is 'self', which only single-user can do"),
    (_with(rotation_admin="entra:"), "rotation-admin names no login after 'entra:'"),
    (_with(rotation_admin="entra: "), "rotation-admin names no login after 'entra:'"),
    (
        _with(rotation_admin="postgres_admin"),
        "is 'postgres_admin', expected a secret's name, 'self' or 'entra:<login>'",
    ),
    (_with(rotation_admin="a" * 128), "expected a secret's name"),
    (_with(rotation_admin="{secret}"), "rotation-admin names this secret itself: say 'self'"),
    (_with(rotation_users="app"), "rotation-users is 'app', expected two different users like 'app,app_alt'"),
    (_with(rotation_users="app,app"), "rotation-users is 'app,app', expected two different users"),
    (_with(rotation_users="app,"), "rotation-users is 'app,', expected two different users"),
    (_with(rotation_users="a,b,c"), "rotation-users is 'a,b,c', expected two different users"),
    (_with(rotation_users=" "), "rotation-users is blank"),
    *(
        (_with(**{tag: value}), f"{tag.replace('_', '-')} is {value!r}, expected a duration like '15m', '36h' or '60d'")
        for tag in ("rotation_every", "rotation_validity", "rotation_grace")
        for value in ("soon", "60", "60 d", "60D", "1.5d", "-1d", "2w", "100000d")
    ),
    (_with(rotation_every="59m"), "rotation-every is '59m', expected at least 1:00:00"),
    (_with(rotation_every="0d"), "rotation-every is '0d', expected at least 1:00:00"),
    (_with(rotation_every=""), "rotation-every is blank"),
    (_with(rotation_validity="30m"), "rotation-validity is '30m', expected at least 1:00:00"),
    (_with(rotation_validity="24h"), "rotation-validity must be longer than rotation-grace (1 day, 0:00:00)"),
    (_with(rotation_validity=" "), "rotation-validity is blank"),
    *(
        (_with(ValidityPeriodDays=days), f"ValidityPeriodDays is {days!r}, expected a whole number of days")
        for days in ("sixty", "0", "-5", "60.5", "60d", "10000")
    ),
    (_with(ValidityPeriodDays="1"), "must be longer than rotation-grace"),
    (_with(ValidityPeriodDays=" "), "ValidityPeriodDays is blank"),
    *(
        (_with(rotation_window=window), f"rotation-window is {window!r}, expected a cron expression and a duration")
        for window in (
            "at night",
            "0 2 * * 6",
            "0 2 * * 6 for",
            "0 2 * * 6 for ever",
            "0 2 * * 6 for 0h",
            "61 2 * * * for 3h",
            "0 2 * * for 3h",
            "0 0 2 * * 6 for 3h",
            "0 2 30 2 * for 3h",
            "@daily for 3h",
            "for 3h",
        )
    ),
    (_with(rotation_window=""), "rotation-window is blank"),
    (_with(rotation_grace="14m"), "rotation-grace is '14m', expected at least 0:15:00"),
    (_with(rotation_grace="0h"), "rotation-grace is '0h', expected at least 0:15:00"),
    (_with(rotation_grace="60d"), "rotation-grace must be shorter than rotation-every (60 days, 0:00:00)"),
    (_with(rotation_every="1h", rotation_grace="2h"), "rotation-grace must be shorter than rotation-every (1:00:00)"),
    (_with(rotation_grace=" "), "rotation-grace is blank"),
    (_with(rotation_in_use="ask"), "rotation-in-use is 'ask', expected 'proceed' or 'wait'"),
    (_with(rotation_in_use=""), "rotation-in-use is blank"),
    (_with(rotation_enabled="no"), "rotation-enabled is 'no', expected 'true' or 'false'"),
    (_with(rotation_enabled="False"), "rotation-enabled is 'False', expected 'true' or 'false'"),
    (_with(rotation_enabled=""), "rotation-enabled is blank"),
    (_with(airflow_conn_id="ware house"), "airflow-conn-id is 'ware house', which is no connection id of Airflow"),
    (_with(airflow_conn_id="a/b"), "airflow-conn-id is 'a/b', which is no connection id of Airflow"),
    (_with(airflow_conn_id="a" * 251), "which is no connection id of Airflow"),
    (_with(airflow_conn_id=" "), "airflow-conn-id is blank"),
    (_with(airflow_dags="tag:"), "airflow-dags has an entry 'tag:' without a DAG tag"),
    (_with(airflow_dags="daily, tag: ,hourly"), "airflow-dags has an entry 'tag:' without a DAG tag"),
    (_with(airflow_dags=""), "airflow-dags is blank"),
    (_with(rotation_users="app\x07,app_alt"), "rotation-users has a control character in it: type it again"),
    (_with(rotation_admin="entra:\x00"), "rotation-admin has a control character in it: type it again"),
    (_with(rotation_every="\u0663d"), "expected a duration like '15m', '36h' or '60d'"),
    (_with(rotation_evry="1d"), "rotation-evry is no tag of this program"),
    (_with(rotation_Every="1d"), "rotation-Every is no tag of this program"),
)


def named(tags: Mapping[str, str], secret: str) -> dict[str, str]:
    """Return the tags with the secret's name filled in."""
    return {name: value.replace("{secret}", secret) for name, value in tags.items()}
