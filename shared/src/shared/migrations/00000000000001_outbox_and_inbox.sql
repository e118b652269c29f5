-- migrate:up

-- Events committed with the state they tell of. Published rows are kept for some days: a stream can be
-- published again from them, with the same ids.
create table outbox (
    seq          bigint generated always as identity primary key,
    id           uuid        not null default uuidv7(),
    subject      text        not null,
    key          text        not null, -- the aggregate: events of one key are published in order
    payload      bytea       not null,
    created_at   timestamptz not null default clock_timestamp(),
    published_at timestamptz
);
create index outbox_unpublished on outbox (seq) where published_at is null;
create index outbox_published on outbox (published_at) where published_at is not null;
alter table outbox set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Events that took effect, per handler: the first statement of every handler's transaction.
create table inbox (
    handler    text        not null,
    event_id   text        not null,
    claimed_at timestamptz not null default clock_timestamp(),
    primary key (handler, event_id)
);
create index inbox_claimed_at on inbox (claimed_at);

-- migrate:down
drop table inbox;
drop table outbox;
