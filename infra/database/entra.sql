-- The admin logs in with the managed identity's token, on Azure Database for PostgreSQL, and so needs no password. Named
-- like the identity; its object id (principal id) tells it from another of that name. Run it as a Microsoft Entra
-- administrator of the server, in the database postgres.
--   psql "$SERVER" -v admin=id-rotation -v object_id=00000000-0000-0000-0000-000000000000 -f infra/database/entra.sql
\set ON_ERROR_STOP on
\set label 'aadauth,oid=' :object_id ',type=service'
SECURITY LABEL FOR "pgaadauth" ON ROLE :"admin" IS :'label';
