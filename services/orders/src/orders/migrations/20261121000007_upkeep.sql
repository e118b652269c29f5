-- migrate:up

-- The slots of a tenant: spread over the interval by its id, whenever it was connected, and the same after any outage.
create function next_slot(tenant_id text, interval_seconds integer, after timestamptz) returns timestamptz
    language sql stable
    return date_bin(
        make_interval(secs => interval_seconds),
        after,
        'epoch'::timestamptz
            + make_interval(secs => interval_seconds * ((hashtext(tenant_id)::bigint + 2147483648) / 4294967296.0))
    ) + make_interval(secs => interval_seconds);

-- What is done for an account again and again: DELTA stores what changed, DETAILS what orders still lack, AUDIT looks
-- whether completed backfills have found everything.
create table upkeep (
    tenant_id       text        not null,
    marketplace     text        not null,
    task            text        not null check (task in ('DELTA', 'DETAILS', 'AUDIT')),
    seller_id       text        not null,
    next_due        timestamptz not null default clock_timestamp(),
    lease_token     bigint      not null default 0, -- the fencing token: who lost the lease writes nothing more
    leased_until    timestamptz,
    failures        integer     not null default 0,
    last_success_at timestamptz,
    error_code      text,
    last_error      text,
    rejected_at     timestamptz,          -- since when Amazon refuses the account's credentials
    cursor_at       timestamptz not null, -- of DELTA: whatever changed before is stored; by Amazon's clock
    read_to         timestamptz,          -- where its round in hand ends; null where Amazon says where
    next_token      text,                 -- the page of it to fetch next; it lives for 24 hours
    next_token_at   timestamptz,
    primary key (tenant_id, marketplace, task)
);
create index upkeep_due on upkeep (task, greatest(next_due, leased_until));
insert into upkeep (tenant_id, marketplace, task, seller_id, cursor_at)
select c.tenant_id, c.marketplace, t.task, c.seller_id,
       coalesce((select min(window_to) from backfill_jobs j
                  where (j.tenant_id, j.marketplace) = (c.tenant_id, c.marketplace)),
                clock_timestamp() - interval '3 minutes')
  from connections c, unnest('{DELTA,DETAILS,AUDIT}'::text[]) t (task);

alter table orders
    add column fetched_at timestamptz, -- when Amazon told of it last, as far as it was asked for it alone or it changed
    add column unknown_at timestamptz; -- since when Amazon does not know it
alter table orders alter column fetched_at set default clock_timestamp();
drop index orders_lacking_detail;
create index orders_lacking_detail on orders (tenant_id, detail, order_date desc, id desc)
    where detail <> 'FULL' and unknown_at is null;

-- Of AUDIT windows, orders are the ones that were missing.
alter table backfill_jobs
    add column audited_at   timestamptz,
    add column days_checked integer not null default 0,
    add column missing      integer not null default 0, -- orders that a report names and the backfill had not stored
    add column unlisted     integer not null default 0; -- orders that are stored and no report names
create index backfill_jobs_to_audit on backfill_jobs (tenant_id, finished_at)
    where state = 'COMPLETED' and audited_at is null;
update backfill_jobs set audited_at = clock_timestamp() where state = 'COMPLETED';

-- migrate:down
alter table backfill_jobs
    drop column audited_at, drop column days_checked, drop column missing, drop column unlisted;
delete from backfill_windows where kind = 'AUDIT';
drop index orders_lacking_detail;
create index orders_lacking_detail on orders (tenant_id, detail, order_date desc, id desc) where detail <> 'FULL';
alter table orders drop column fetched_at, drop column unknown_at;
drop table upkeep;
drop function next_slot;
