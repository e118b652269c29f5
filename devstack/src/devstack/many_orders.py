"""Orders by the million straight into the database, as a seller of two years has them, among many small sellers: for
what has to be proved or measured at that size.
"""

import asyncpg

BIG = "kbz-big"
SMALL = "kbz-small-7"
SMALL_TENANTS = 2_000
SMALL_ORDERS = 50
RARE_MARKETPLACE = "A2NODRKZP88ZB9"


async def fill(conn: asyncpg.Connection, orders: int) -> None:
    """So many of BIG, and SMALL_ORDERS of each of the others. The connection is the owner's; statistics are made.
    Their dates end now, so that some are open, at risk and overdue; nothing else depends on the moment.
    """
    indexes = await conn.fetch(
        "SELECT indexname AS name, indexdef AS statement FROM pg_indexes"
        " WHERE schemaname = 'orders' AND tablename = 'orders' AND indexname NOT IN (SELECT conname FROM pg_constraint)"
    )
    for index in indexes:  # built at once afterwards, which takes a fifth of the time
        await conn.execute(f'DROP INDEX orders."{index["name"]}"')
    await conn.execute(_INSERT, orders, BIG, 1)
    await conn.execute(_INSERT, SMALL_ORDERS * SMALL_TENANTS, "kbz-small-", SMALL_TENANTS)
    await conn.execute("SET maintenance_work_mem = '512MB'")
    for index in indexes:
        await conn.execute(index["statement"])
    await conn.execute("VACUUM ANALYZE orders.orders")


_INSERT = """
INSERT INTO orders.orders
       (tenant_id, marketplace, external_order_id, order_ref, marketplace_id, customer_name, customer_email,
        order_date, currency, total_amount, order_status, external_status, delivery_status, carrier, tracking_code,
        shipping_address, ship_by, deliver_by, shipped_at, delivered_at, external_updated_at, created_at, updated_at,
        detail, external_detailed_at)
SELECT CASE WHEN $3::int = 1 THEN $2::text ELSE $2 || n % $3 END, 'AMAZON', external_id, '#' || right(external_id, 6),
       CASE WHEN place < 1 THEN 'A2NODRKZP88ZB9' WHEN place < 200 THEN 'A1RKKUPIHCS9HS'
            WHEN place < 1000 THEN 'APJ6JRA9NG5V4' WHEN place < 3000 THEN 'A1PA6795UKMFR9'
            ELSE 'A13V1IB3VIYZZH' END,
       CASE WHEN luck % 50 = 0 THEN 'Marie' ELSE starts[1 + luck % 19] || ends[1 + place % 17] END || ' '
           || starts[1 + place % 19] || ends[1 + luck % 17] || ends[1 + n % 17],
       left(md5(n::text), 14) || '@marketplace.amazon.fr',
       ordered, 'EUR', (place % 500) + 0.9, status, status,
       CASE WHEN status = 'DELIVERED' THEN 'DELIVERED' WHEN status <> 'SHIPPED' THEN 'PREPARING'
            WHEN place < 30 THEN 'LOST' WHEN place < 600 THEN 'DELAYED' WHEN place < 2000 THEN 'OUT_FOR_DELIVERY'
            ELSE 'IN_TRANSIT' END,
       'DPD', md5(external_id),
       jsonb_build_object('name', 'Ada Martin', 'addressLine1', luck || ' rue des Lilas', 'city', 'Paris',
                          'postalCode', '750' || luck % 20, 'countryCode', 'FR'),
       ordered + interval '2 days', ordered + interval '7 days',
       CASE WHEN status IN ('SHIPPED', 'DELIVERED')
            THEN ordered + CASE WHEN place % 100 = 7 THEN interval '3 days' ELSE interval '1 day' END END,
       CASE WHEN status = 'DELIVERED' THEN ordered + interval '5 days' END,
       changed, ordered, changed, 'FULL', changed
  FROM (SELECT *, least(ordered + (luck % 9) * interval '1 day', statement_timestamp()) AS changed,
               CASE WHEN luck < 500 THEN 'CANCELLED'
                    WHEN ordered > statement_timestamp() - interval '1 day' THEN
                         CASE WHEN luck < 3000 THEN 'PENDING' ELSE 'CONFIRMED' END
                    WHEN ordered > statement_timestamp() - interval '156 hours' THEN
                         CASE WHEN luck < 600 THEN 'CONFIRMED' ELSE 'SHIPPED' END
                    WHEN luck < 502 THEN 'RETURNED' WHEN luck < 600 THEN 'SHIPPED' ELSE 'DELIVERED' END AS status
          FROM (SELECT n, (hashint4extended(n, 1) & 2147483647) % 10000 AS luck,
                       (hashint4extended(n, 2) & 2147483647) % 10000 AS place,
                       statement_timestamp() - n * (interval '730 days' / $1::int) AS ordered,
                       format('40%s-%s-%s', 2 + n % 7,
                              lpad(((hashint4extended(n, 3) & 2147483647) % 10000000)::text, 7, '0'),
                              lpad(((hashint4extended(n, 4) & 2147483647) % 10000000)::text, 7, '0')) AS external_id
                  FROM generate_series(0, $1 - 1) n) dated) dealt,
       (SELECT string_to_array('Al Ber Car Del El Fre Gé Hen Jean-Lu Ka Lam Mar Nor Pe Ros Sté Tho Val Wen',
                               ' ') AS starts,
               string_to_array('a ane bert chel da ette fred ïs la line mon na phine rie son than zo',
                               ' ') AS ends) words
    ON CONFLICT DO NOTHING
"""
