-- migrate:up

alter table oauth_states
    add column return_url text,
    -- null while it may still become something: unused, or a callback is at work with it
    add column outcome text check (outcome in ('CONNECTED', 'FAILED', 'LOST', 'EXPIRED', 'DISCONNECTED'));
update oauth_states set outcome = 'LOST' where used_at is not null; -- long over, nobody noted how
create index oauth_states_of_tenant on oauth_states (tenant_id);

alter table marketplace_connections
    drop constraint marketplace_connections_status_check,
    add check (status in ('PENDING', 'CONNECTED', 'ERROR', 'REVOKED', 'RECONNECT_REQUIRED', 'DISCONNECTED')),
    add column last_error_code text,
    add column authorized_at timestamptz, -- when the seller gave the authorization that was connected last
    add column void_until timestamptz, -- authorizations given until then are over: Vault must not hold them
    add column verified_at timestamptz, -- when Amazon last took the credentials
    add column reminded_days integer, -- of the reminders 30, 7 and 1 days ahead, the last one told
    add column next_check_at timestamptz not null default clock_timestamp();
update marketplace_connections set authorized_at = connected_at;
create index marketplace_connections_due on marketplace_connections (next_check_at);

-- What a connection went through: only ever added to.
create table connection_changes (
    id            bigint      generated always as identity primary key,
    tenant_id     text        not null,
    connection_id uuid        not null,
    from_status   text,
    to_status     text        not null,
    code          text,
    reason        text,
    at            timestamptz not null default clock_timestamp()
);
create index connection_changes_of_tenant on connection_changes (tenant_id, id);

-- When each application's client secret has to be changed at the latest.
create table applications (
    app_source    text        primary key,
    rotate_by     timestamptz not null,
    reminded_days integer
);

-- What tenant.synced said last of each tenant. Every change of a tenant's connection locks its row first.
create table tenants (
    id        text    primary key,
    archived  boolean not null,
    synced_at timestamptz -- null where the event did not say: older than any that does
);

-- migrate:down
drop table tenants;
drop table applications;
drop table connection_changes;
alter table marketplace_connections
    drop constraint marketplace_connections_status_check,
    drop column last_error_code,
    drop column authorized_at,
    drop column void_until,
    drop column verified_at,
    drop column reminded_days,
    drop column next_check_at;
update marketplace_connections set status = 'ERROR'
    where status in ('REVOKED', 'RECONNECT_REQUIRED', 'DISCONNECTED');
alter table marketplace_connections add check (status in ('PENDING', 'CONNECTED', 'ERROR'));
drop index oauth_states_of_tenant;
alter table oauth_states drop column return_url, drop column outcome;
