-- The right to change one user, and to make a second one that acts as it. For each user under rotation.
--   psql "$SERVER" -v admin=rotator -v user=app -f infra/database/user.sql
\set ON_ERROR_STOP on
SELECT :SERVER_VERSION_NUM >= 160000 AS needs_admin_option \gset
\if :needs_admin_option
-- To hand the role on, and not to act as it: what the user may read, the admin may not.
GRANT :"user" TO :"admin" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
\else
\echo Nothing to grant: before PostgreSQL 16, CREATEROLE is a right over every user that is no superuser.
\endif
