-- Only if `revoke` is to end the sessions of a user whose password leaked. It then may end those of every user that is
-- no superuser.
--   psql "$SERVER" -v admin=rotator -f infra/database/end-sessions.sql
\set ON_ERROR_STOP on
GRANT pg_signal_backend TO :"admin";
