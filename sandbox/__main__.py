"""`make sandbox`: start everything, say what to try, and stay up until Ctrl-C."""

import sys
import time
from contextlib import suppress

from sandbox.ending import end_when_asked
from sandbox.laptop import CRM, LAKE, WAREHOUSE, Laptop

APP = "http://localhost:7071"

TEXT = """
  Key Vault    {vault}
  Airflow      {airflow}   user {user}, password {password}
  PostgreSQL   {postgresql}

Now, in another terminal:

  make start
      runs the app on {app}; the vault then raises SecretNearExpiry for {warehouse}, and
      Event Grid brings it: watch it rotate

  curl -s {app}/api/secrets/{warehouse} -H "x-functions-key: $KEY"
      what is known about a secret; KEY is the function key that `make start` prints (func checks none)

  curl -s {app}/api/secrets/{warehouse}/history -H "x-functions-key: $KEY"
      what was done to it, when, why and by whom; a POST to .../{warehouse}/rollback takes the last rotation back

  curl -s -X POST {app}/api/secrets/{crm}/rotate -H "x-functions-key: $KEY" -d '{{"dryRun": true}}'
      what a rotation would do; without dryRun it does it, with "revoke": true the old password is refused at once

  curl -s -X POST '{app}/runtime/webhooks/EventGrid?functionName=rotation_event' \\
       -H 'aeg-event-type: Notification' -H 'Content-Type: application/json' -d '{event}'
      the event for {warehouse}, once more: it changes nothing

  curl -s -X POST {app}/admin/functions/rotation_sweep -H "x-functions-key: $MASTER" \\
       -H 'Content-Type: application/json' -d '{{"input": ""}}'
      the timer: {lake} never raises an event, so the sweep rotates it (with func, which needs Azurite for
      timers, the timer is off, and this is how the sweep runs)

Ctrl-C ends everything.
"""


def main() -> int:
    end_when_asked()
    print("Starting PostgreSQL, the Key Vault stand-in and Airflow (20 s, more the first time) ...", flush=True)
    with suppress(KeyboardInterrupt), Laptop() as laptop:
        file = laptop.write_local_settings()
        try:
            _stay_up(laptop)
        finally:
            file.unlink(missing_ok=True)
    print("\nStopped.")
    return 0


def _stay_up(laptop: Laptop) -> None:
    version = laptop.vault.current(WAREHOUSE).version
    event = (
        f'[{{"id": "by-hand", "subject": "{WAREHOUSE}", "eventType": "Microsoft.KeyVault.SecretNearExpiry", '
        f'"eventTime": "2026-01-01T00:00:00Z", "dataVersion": "1", "topic": "sandbox", '
        f'"data": {{"Id": "{laptop.vault.url}/secrets/{WAREHOUSE}/{version}"}}}}]'
    )
    print(
        TEXT.format(
            vault=laptop.vault.url,
            airflow=laptop.airflow.url,
            user=laptop.airflow.username,
            password=laptop.airflow.password,
            postgresql=f"127.0.0.1:{laptop.postgresql.port}",
            app=APP,
            warehouse=WAREHOUSE,
            lake=LAKE,
            crm=CRM,
            event=event,
        ),
        flush=True,
    )
    is_subscribed = False
    while True:
        time.sleep(1)
        if not is_subscribed:
            with suppress(OSError, ValueError):
                laptop.subscribe(APP)
                is_subscribed = True
                laptop.catch_up()
                print(f"The app answers: Event Grid brings it the events of the vault, and {WAREHOUSE} is due.")


if __name__ == "__main__":
    sys.exit(main())
