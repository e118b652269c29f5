-- migrate:up

-- Whose orders we may ask for, learned from connection.connected.
create table connections (
    tenant_id       text        not null,
    marketplace     text        not null,
    connection_id   uuid        not null,
    seller_id       text        not null,
    region          text        not null,
    marketplace_ids text[]      not null,
    connected_at    timestamptz not null,
    primary key (tenant_id, marketplace)
);

create table orders (
    id                uuid        primary key default uuidv7(),
    tenant_id         text        not null,
    marketplace       text        not null,
    external_order_id text        not null,
    order_ref         text        not null, -- as support people say it: # and the last six digits
    marketplace_id    text,
    customer_name     text,
    customer_email    text,
    order_date        timestamptz not null,
    currency          text,
    total_amount      numeric,
    order_status      text        not null,
    external_status   text        not null, -- as the marketplace says it, unknown ones too
    delivery_status   text        not null,
    sav_status        text        not null default 'NONE',
    carrier           text,
    tracking_code     text,
    shipping_address  jsonb,
    ship_by           timestamptz,
    deliver_by        timestamptz,
    shipped_at        timestamptz,
    delivered_at      timestamptz,
    external_updated_at timestamptz not null, -- the marketplace's time of change: an older answer never wins
    created_at        timestamptz not null default clock_timestamp(),
    updated_at        timestamptz not null default clock_timestamp(),
    unique (tenant_id, marketplace, external_order_id)
);
create index orders_newest on orders (tenant_id, order_date desc, id desc);

create table order_items (
    order_id         uuid    not null references orders (id) on delete cascade,
    external_item_id text    not null,
    sku              text,
    asin             text,
    title            text,
    quantity         integer not null,
    unit_price       numeric,
    currency         text,
    primary key (order_id, external_item_id)
);

create table backfill_jobs (
    id              uuid        primary key default uuidv7(),
    tenant_id       text        not null,
    marketplace     text        not null,
    days            integer     not null,
    window_from     timestamptz not null,
    window_to       timestamptz not null,
    state           text        not null default 'REQUESTED'
                    check (state in ('REQUESTED', 'RUNNING', 'WAITING', 'COMPLETED', 'FAILED')),
    next_token      text,        -- the page to fetch next; it lives for 24 hours
    next_token_at   timestamptz,
    orders_stored   integer     not null default 0,
    items_stored    integer     not null default 0,
    pages           integer     not null default 0,
    error_code      text,
    error           text,
    next_attempt_at timestamptz not null default clock_timestamp(),
    attempts        integer     not null default 0,
    lease_token     bigint      not null default 0, -- the fencing token: who lost the lease writes nothing more
    leased_until    timestamptz,
    created_at      timestamptz not null default clock_timestamp(),
    finished_at     timestamptz
);
create unique index backfill_jobs_one_at_a_time on backfill_jobs (tenant_id, marketplace)
    where state in ('REQUESTED', 'RUNNING', 'WAITING');
create index backfill_jobs_due on backfill_jobs (next_attempt_at)
    where state in ('REQUESTED', 'RUNNING', 'WAITING');

-- migrate:down
drop table backfill_jobs;
drop table order_items;
drop table orders;
drop table connections;
