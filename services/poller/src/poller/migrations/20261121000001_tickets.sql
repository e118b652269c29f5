-- migrate:up

-- When each tenant's marketplace is polled next, and who has it in hand.
create table poll_schedules (
    tenant_id        text        not null,
    marketplace      text        not null,
    connection_id    uuid        not null,
    connected_at     timestamptz not null,
    interval_seconds integer     not null,
    next_due         timestamptz not null default clock_timestamp(),
    leased_until     timestamptz,
    lease_token      bigint      not null default 0, -- the fencing token: who lost the lease writes nothing more
    failures         integer     not null default 0,
    last_success_at  timestamptz,
    last_error       text,
    primary key (tenant_id, marketplace)
);
create index poll_schedules_due on poll_schedules (greatest(next_due, leased_until));

create table tickets (
    id                uuid        primary key default uuidv7(),
    tenant_id         text        not null,
    marketplace       text        not null,
    external_order_id text,
    buyer             text        not null, -- the marketplace's alias of the buyer
    subject           text        not null,
    status            text        not null default 'OPEN' check (status in ('OPEN', 'CLOSED')),
    reply_by          timestamptz not null,
    last_message_at   timestamptz not null,
    created_at        timestamptz not null default clock_timestamp(),
    updated_at        timestamptz not null default clock_timestamp()
);
create index tickets_newest on tickets (tenant_id, last_message_at desc, id desc);
create index tickets_thread on tickets (tenant_id, marketplace, buyer, external_order_id);

-- Each message of a marketplace, once.
create table external_messages (
    id                uuid        primary key default uuidv7(),
    tenant_id         text        not null,
    marketplace       text        not null,
    external_id       text        not null,
    source            text        not null,
    external_order_id text,
    buyer             text        not null,
    subject           text        not null,
    body              text        not null,
    received_at       timestamptz not null,
    created_at        timestamptz not null default clock_timestamp(),
    unique (tenant_id, marketplace, external_id)
);

create table ticket_messages (
    id                  uuid        primary key default uuidv7(),
    ticket_id           uuid        not null references tickets (id),
    external_message_id uuid        not null unique references external_messages (id),
    body                text        not null,
    sent_at             timestamptz not null
);
create index ticket_messages_of_ticket on ticket_messages (ticket_id, sent_at, id);

-- migrate:down
drop table ticket_messages;
drop table external_messages;
drop table tickets;
drop table poll_schedules;
