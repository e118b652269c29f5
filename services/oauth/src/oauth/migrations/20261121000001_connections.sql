-- migrate:up

-- A seller's way to Amazon and back: single use, short-lived, only its hash is kept.
create table oauth_states (
    state_hash bytea       primary key,
    tenant_id  text        not null,
    user_id    text,
    country    text        not null,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    used_at    timestamptz
);
create index oauth_states_expired on oauth_states (expires_at);

-- Where the credentials are, never the credentials themselves.
create table marketplace_connections (
    id              uuid        primary key default uuidv7(),
    tenant_id       text        not null,
    marketplace     text        not null,
    status          text        not null check (status in ('PENDING', 'CONNECTED', 'ERROR')),
    seller_id       text,
    marketplace_ids text[]      not null default '{}',
    region          text        not null,
    app_source      text        not null,
    vault_path      text        not null,
    connected_at    timestamptz,
    reauthorize_by  timestamptz,
    last_error      text,
    created_at      timestamptz not null default clock_timestamp(),
    updated_at      timestamptz not null default clock_timestamp(),
    unique (tenant_id, marketplace)
);

-- migrate:down
drop table marketplace_connections;
drop table oauth_states;
