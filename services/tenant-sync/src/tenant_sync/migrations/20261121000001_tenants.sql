-- migrate:up

-- The product's tenants as we know them; plan and status in upper case.
create table tenants (
    id                 text        primary key,
    name               text        not null,
    plan               text        not null,
    status             text        not null,
    product_updated_at timestamptz not null, -- the product's own time of change: an older copy never wins
    created_at         timestamptz not null default clock_timestamp(),
    updated_at         timestamptz not null default clock_timestamp()
);

-- Where a tenant's marketplace messages may be sent to.
create table inbound_addresses (
    tenant_id   text        not null references tenants (id),
    marketplace text        not null,
    country     text        not null,
    email       text        not null unique,
    status      text        not null check (status in ('PENDING', 'ACTIVE', 'DISABLED')),
    created_at  timestamptz not null default clock_timestamp(),
    primary key (tenant_id, marketplace, country)
);

-- The marketplace accounts of a tenant, learned from connection.* events; they may come before the tenant.
create table inbound_connections (
    tenant_id     text        not null,
    marketplace   text        not null,
    connection_id uuid        not null,
    seller_id     text        not null,
    status        text        not null,
    connected_at  timestamptz not null,
    primary key (tenant_id, marketplace)
);

-- migrate:down
drop table inbound_connections;
drop table inbound_addresses;
drop table tenants;
