-- Takes everything from the admin at once. No user is locked out, and no secret changes: rotations fail, and say so.
--   psql "$SERVER" -v admin=rotator -f infra/database/stop.sql
\set ON_ERROR_STOP on
ALTER ROLE :"admin" NOLOGIN NOCREATEROLE;
SELECT count(pg_terminate_backend(pid)) AS "sessions ended" FROM pg_stat_activity WHERE usename = :'admin';
