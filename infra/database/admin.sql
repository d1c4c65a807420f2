-- The admin that the rotation logs in as: it may log in, and make and change users. It has no password yet, is no
-- superuser, and may read no table.
--   psql "$SERVER" -v admin=rotator -f infra/database/admin.sql
\set ON_ERROR_STOP on
CREATE ROLE :"admin" LOGIN CREATEROLE;
