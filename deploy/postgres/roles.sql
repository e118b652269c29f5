-- Databases, roles and rights; safe to run again, and a run brings every password in line with the environment:
--   psql -v ON_ERROR_STOP=1 -f roles.sql    as a superuser, with the variables below set
\set QUIET on
\getenv product_password POSTGRES_PRODUCT_PASSWORD
\getenv product_reader_password POSTGRES_PRODUCT_READER_PASSWORD
\getenv oauth_password POSTGRES_OAUTH_PASSWORD
\getenv oauth_owner_password POSTGRES_OAUTH_OWNER_PASSWORD
\getenv poller_password POSTGRES_POLLER_PASSWORD
\getenv poller_owner_password POSTGRES_POLLER_OWNER_PASSWORD
\getenv orders_password POSTGRES_ORDERS_PASSWORD
\getenv orders_owner_password POSTGRES_ORDERS_OWNER_PASSWORD
\getenv tenant_sync_password POSTGRES_TENANT_SYNC_PASSWORD
\getenv tenant_sync_owner_password POSTGRES_TENANT_SYNC_OWNER_PASSWORD
\getenv amazon_owner_password POSTGRES_AMAZON_OWNER_PASSWORD

CREATE TEMPORARY TABLE login (role text PRIMARY KEY, password text NOT NULL CHECK (password <> ''));
INSERT INTO login VALUES
  ('product', :'product_password'),
  ('product_reader', :'product_reader_password'),
  ('oauth', :'oauth_password'),
  ('oauth_owner', :'oauth_owner_password'),
  ('poller', :'poller_password'),
  ('poller_owner', :'poller_owner_password'),
  ('orders', :'orders_password'),
  ('orders_owner', :'orders_owner_password'),
  ('tenant_sync', :'tenant_sync_password'),
  ('tenant_sync_owner', :'tenant_sync_owner_password'),
  ('amazon_owner', :'amazon_owner_password');

-- A failing statement would be written to the server's log, password and all.
SET log_min_error_statement = panic;
SELECT format('CREATE ROLE %I LOGIN', role) FROM login WHERE role NOT IN (SELECT rolname FROM pg_roles) \gexec
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', role, password) FROM login \gexec
RESET log_min_error_statement;

SELECT format('CREATE DATABASE %I', name) FROM (VALUES ('keybuzz'), ('keybuzz_backend')) AS wanted (name)
 WHERE name NOT IN (SELECT datname FROM pg_database) \gexec

REVOKE ALL ON DATABASE postgres, keybuzz, keybuzz_backend FROM PUBLIC;
GRANT CONNECT ON DATABASE keybuzz TO product, product_reader;
GRANT CONNECT ON DATABASE keybuzz_backend
   TO oauth, oauth_owner, poller, poller_owner, orders, orders_owner, tenant_sync, tenant_sync_owner, amazon_owner;

-- The product's database: only its own table matters here, and tenant-sync reads it.
\connect keybuzz
SET client_min_messages = warning;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO product, product_reader;
CREATE TABLE IF NOT EXISTS tenants (
  id text PRIMARY KEY,
  name text NOT NULL,
  plan text NOT NULL,
  status text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE tenants OWNER TO product;
GRANT SELECT ON tenants TO product_reader;
ALTER ROLE product_reader CONNECTION LIMIT 20;
ALTER ROLE product_reader SET default_transaction_read_only = on;
ALTER ROLE product_reader SET statement_timeout = '30s';
ALTER ROLE product_reader SET idle_in_transaction_session_timeout = '60s';

-- Ours: a schema per service. Its owner migrates; the service itself reads and writes rows, and changes no table.
\connect keybuzz_backend
SET client_min_messages = warning;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
-- A bulk sync holds a page of the product's tenants in a temporary table.
GRANT TEMPORARY ON DATABASE keybuzz_backend TO tenant_sync;
SELECT format(statement, service) FROM
  (VALUES ('oauth'), ('poller'), ('orders'), ('tenant_sync')) AS services (service),
  (VALUES
    (1, 'CREATE SCHEMA IF NOT EXISTS %1$I AUTHORIZATION %1$I_owner'),
    (2, 'GRANT USAGE ON SCHEMA %1$I TO %1$I'),
    (3, 'ALTER DEFAULT PRIVILEGES FOR ROLE %1$I_owner IN SCHEMA %1$I '
        'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %1$I'),
    (4, 'ALTER DEFAULT PRIVILEGES FOR ROLE %1$I_owner IN SCHEMA %1$I GRANT USAGE, SELECT ON SEQUENCES TO %1$I'),
    (5, 'ALTER ROLE %1$I SET search_path = %1$I'),
    (6, 'ALTER ROLE %1$I_owner SET search_path = %1$I'),
    (7, 'ALTER ROLE %1$I CONNECTION LIMIT 40'),
    (8, 'ALTER ROLE %1$I_owner CONNECTION LIMIT 5'),
    (9, 'ALTER ROLE %1$I SET statement_timeout = ''30s'''),
    (10, 'ALTER ROLE %1$I SET idle_in_transaction_session_timeout = ''60s'''),
    -- The server's log says that a row was refused, and not what a buyer wrote in it.
    (11, 'ALTER ROLE %1$I SET log_error_verbosity = ''terse''')
  ) AS statements (place, statement)
 ORDER BY service, place \gexec

-- What services share: the gate before Amazon, which those pass that use up a seller's quota. Its migration says what
-- they may do there.
CREATE SCHEMA IF NOT EXISTS amazon AUTHORIZATION amazon_owner;
GRANT USAGE ON SCHEMA amazon TO poller, orders;
ALTER ROLE amazon_owner SET search_path = amazon;
ALTER ROLE amazon_owner CONNECTION LIMIT 5;
