-- migrate:up

-- The next deadline that is not met yet: -infinity once one was missed, infinity when nothing is due any more. With it
-- the SLA status of a moment is a range: sla_status() of domain.py in a form that an index can find.
create function sla_due(order_status text, ship_by timestamptz, deliver_by timestamptz, shipped_at timestamptz)
    returns timestamptz language sql immutable parallel safe
    return case
        when order_status in ('CANCELLED', 'RETURNED') then 'infinity'
        when order_status in ('SHIPPED', 'DELIVERED') and shipped_at > ship_by then '-infinity'
        when order_status = 'DELIVERED' or (order_status = 'SHIPPED' and shipped_at is null) then 'infinity'
        when order_status = 'SHIPPED' then coalesce(deliver_by, 'infinity')
        else least(ship_by, deliver_by, 'infinity')
    end;

-- What an order is found by: its ref, each word of the customer's name, also those within a word (Jean-Pierre), and
-- the mail address. The tenant is a part of each term, so that a search touches no other's.
create function search_terms(tenant_id text, order_ref text, customer_name text, customer_email text)
    returns tsvector language sql immutable parallel safe
    return array_to_tsvector(string_to_array(
        tenant_id || ' ' || regexp_replace(
            lower((order_ref || coalesce(' ' || left(customer_email, 320), '')
                   || coalesce(' ' || left(customer_name, 200), '')
                   || coalesce(' ' || translate(left(customer_name, 200), '-.''’', '    '), ''))
                  collate pg_unicode_fast),
            '\s+', E'\n' || tenant_id || ' ', 'g'),
        E'\n'));

alter table orders
    alter external_order_id type text collate "C", -- the beginning of an id is a range of the unique index
    add sla_due timestamptz generated always as (sla_due(order_status, ship_by, deliver_by, shipped_at)) stored,
    -- All that a list is filtered by and that has few values, as one: a filter is some facets, and each facet has its
    -- orders in the order of the list. MISSED and DONE stay so; OPEN is OK, AT_RISK or BREACHED by its sla_due.
    add facet text collate "C" not null generated always as (
        order_status || ' ' || delivery_status || ' '
        || case sla_due(order_status, ship_by, deliver_by, shipped_at)
               when '-infinity' then 'MISSED' when 'infinity' then 'DONE' else 'OPEN' end
        || ' ' || coalesce(marketplace_id, '')) stored;

create index orders_by_date on orders (tenant_id, facet, order_date, id) include (sla_due);
create index orders_by_change on orders (tenant_id, facet, updated_at, id) include (order_date, sla_due);
create index orders_due on orders (tenant_id, sla_due) where sla_due < 'infinity';
create index orders_search on orders using gin (search_terms(tenant_id, order_ref, customer_name, customer_email));

-- migrate:down
drop index orders_search;
drop index orders_due;
alter table orders drop column facet, drop column sla_due, alter external_order_id type text collate "default";
drop function search_terms(text, text, text, text);
drop function sla_due(text, timestamptz, timestamptz, timestamptz);
