-- migrate:up

-- How much of Amazon's usage plans is used up, for all replicas of all services that call it; see shared/amazon/gate.py.
create table request_buckets (
    application text             not null,
    seller_id   text             not null,
    region      text             not null,
    operation   text             not null,
    arrives_at  timestamptz      not null, -- when all calls so far, one an interval, are over: GCRA's arrival time
    rate        double precision check (rate > 0), -- calls a second, as Amazon said last; null is the published plan
    learned_at  timestamptz,
    primary key (application, seller_id, region, operation)
) with (fillfactor = 50); -- room for the next version of a row beside it
grant select, insert, update on request_buckets to poller, orders;

-- migrate:down
drop table request_buckets;
