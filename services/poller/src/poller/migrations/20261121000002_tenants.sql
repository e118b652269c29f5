-- migrate:up

-- What tenant.synced said last of each tenant.
create table tenants (
    id        text    primary key,
    archived  boolean not null,
    synced_at timestamptz -- null where the event did not say: older than any that does
);

-- migrate:down
drop table tenants;
