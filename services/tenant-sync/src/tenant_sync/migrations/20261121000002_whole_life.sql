-- migrate:up

-- A tenant that the product does not have any more stays, archived.
alter table tenants add column deleted_at timestamptz;

-- When the first valid mail came; what an address is again when its tenant comes back.
alter table inbound_addresses add column activated_at timestamptz;

-- The countries of a connection, which get addresses too; and when it ended.
alter table inbound_connections add column countries text[] not null default '{}';
alter table inbound_connections add column changed_at timestamptz;
update inbound_connections set changed_at = connected_at;
alter table inbound_connections alter column changed_at set not null;

-- Bulk syncs: the unfinished one goes on behind after_id.
create table sync_runs (
    id          uuid        primary key default uuidv7(),
    state       text        not null default 'RUNNING' check (state in ('RUNNING', 'COMPLETED')),
    after_id    text        not null default '',
    countries   text[]      not null default '{}', -- that every tenant has an address for when the run is completed
    created     bigint      not null default 0,
    updated     bigint      not null default 0,
    archived    bigint      not null default 0,
    skipped     bigint      not null default 0,
    errors      bigint      not null default 0,
    started_at  timestamptz not null default clock_timestamp(),
    updated_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz
);
create index sync_runs_newest on sync_runs (started_at desc);

-- migrate:down
drop table sync_runs;
alter table inbound_connections drop column changed_at;
alter table inbound_connections drop column countries;
alter table inbound_addresses drop column activated_at;
alter table tenants drop column deleted_at;
