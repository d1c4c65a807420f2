-- Only if outcomes are to say since when, and from where, sessions use the old user. It then sees what every session
-- runs.
--   psql "$SERVER" -v admin=rotator -f infra/database/see-sessions.sql
\set ON_ERROR_STOP on
GRANT pg_read_all_stats TO :"admin";
