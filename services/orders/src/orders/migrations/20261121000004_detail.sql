-- migrate:up

-- How much is known of an order, and what an older answer with customer and packages still knows after a report's row.
alter table orders
    add column detail               text not null default 'FULL' check (detail in ('PLACEHOLDER', 'REPORT', 'FULL')),
    add column external_detailed_at timestamptz, -- the version of the FULL answer that the customer and packages are from
    add column package_status       text,        -- the delivery as the packages of that answer say it
    add column known_items          jsonb;       -- its items, [[sku, asin, id], ...], where a later report's row lists others
update orders set external_detailed_at = external_updated_at, package_status = nullif(delivery_status, 'PREPARING');
alter table orders alter column detail drop default;
create index orders_lacking_detail on orders (tenant_id, detail, order_date desc, id desc) where detail <> 'FULL';

-- Where an item stands in its order; a report does not say its id.
alter table order_items add column position integer;
update order_items i set position = p.position
  from (select order_id, external_item_id,
               row_number() over (partition by order_id order by external_item_id) - 1 as position
          from order_items) p
 where (i.order_id, i.external_item_id) = (p.order_id, p.external_item_id);
alter table order_items
    drop constraint order_items_pkey,
    add primary key (order_id, position),
    alter column external_item_id drop not null;
create unique index order_items_id on order_items (order_id, external_item_id) where external_item_id is not null;

-- migrate:down
delete from orders where detail = 'PLACEHOLDER';
delete from order_items where external_item_id is null;
drop index order_items_id;
alter table order_items
    drop constraint order_items_pkey,
    drop column position,
    add primary key (order_id, external_item_id);
drop index orders_lacking_detail;
alter table orders
    drop column detail, drop column external_detailed_at, drop column package_status, drop column known_items;
