-- migrate:up

-- What a backfill consists of. What is stored is counted here alone; a job's counts are the sums.
create table backfill_windows (
    id              uuid        primary key default uuidv7(),
    job_id          uuid        not null references backfill_jobs (id) on delete cascade,
    kind            text        not null check (kind in ('PAGES', 'REPORT', 'AUDIT')),
    from_at         timestamptz not null, -- order dates from here
    to_at           timestamptz not null, -- until before here
    rest_from       timestamptz not null, -- of PAGES: what no page has covered yet
    rest_to         timestamptz not null,
    next_token      text,                 -- the page to fetch next; it lives for 24 hours
    next_token_at   timestamptz,
    pages_only      boolean     not null default false, -- reports did not work, so its pages wait for the quota
    report_id       text,
    asked_at        timestamptz,          -- when the report was asked for
    document_id     text,
    ready_at        timestamptz,          -- when its document was found
    troubles        integer     not null default 0, -- what went wrong with reports so far
    orders          integer     not null default 0,
    items           integer     not null default 0,
    pages           integer     not null default 0,
    next_attempt_at timestamptz not null default clock_timestamp(),
    done_at         timestamptz
);
create index backfill_windows_of_job on backfill_windows (job_id);

insert into backfill_windows
       (job_id, kind, from_at, to_at, rest_from, rest_to, next_token, next_token_at, orders, items, pages, done_at)
select id, 'PAGES', window_from, window_to, window_from, window_to, next_token, next_token_at, orders_stored,
       items_stored, pages, case when state = 'COMPLETED' then finished_at end
  from backfill_jobs;

alter table backfill_jobs
    drop column next_token,
    drop column next_token_at,
    drop column orders_stored,
    drop column items_stored,
    drop column pages,
    drop constraint backfill_jobs_state_check,
    add constraint backfill_jobs_state_check
        check (state in ('REQUESTED', 'RUNNING', 'WAITING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    add column seller_id            text,             -- whose orders; only the same seller's connection goes on with it
    add column waiting_for          text check (waiting_for in ('QUOTA', 'OUTAGE')),
    add column waiting_since        timestamptz,
    add column quota_waited_seconds double precision not null default 0,
    add column calls                integer not null default 0,
    add column notice               text,             -- what it does otherwise than planned, and why
    add column told_at              timestamptz;      -- the last backfill.progressed

-- migrate:down
alter table backfill_jobs
    drop constraint backfill_jobs_state_check,
    drop column seller_id, drop column waiting_for, drop column waiting_since, drop column quota_waited_seconds,
    drop column calls, drop column notice, drop column told_at,
    add column next_token text,
    add column next_token_at timestamptz,
    add column orders_stored integer not null default 0,
    add column items_stored integer not null default 0,
    add column pages integer not null default 0;
update backfill_jobs j set orders_stored = w.orders, items_stored = w.items, pages = w.pages
  from (select job_id, sum(orders) as orders, sum(items) as items, sum(pages) as pages
          from backfill_windows group by job_id) w
 where w.job_id = j.id;
update backfill_jobs set state = 'FAILED' where state = 'CANCELLED';
alter table backfill_jobs add constraint backfill_jobs_state_check
    check (state in ('REQUESTED', 'RUNNING', 'WAITING', 'COMPLETED', 'FAILED'));
drop table backfill_windows;
