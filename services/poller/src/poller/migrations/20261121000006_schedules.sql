-- migrate:up

-- Since when Amazon refuses the account's credentials; it is asked once an hour until oauth says more.
alter table poll_schedules add column rejected_at timestamptz;

-- The slots of a tenant: spread over the interval by its id, whenever it was connected, and the same after any outage.
create function next_slot(tenant_id text, interval_seconds integer, after timestamptz) returns timestamptz
    language sql stable
    return date_bin(
        make_interval(secs => interval_seconds),
        after,
        'epoch'::timestamptz
            + make_interval(secs => interval_seconds * ((hashtext(tenant_id)::bigint + 2147483648) / 4294967296.0))
    ) + make_interval(secs => interval_seconds);

-- migrate:down
drop function next_slot;
alter table poll_schedules drop column rejected_at;
