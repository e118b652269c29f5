-- The tenants of the story, into a product database that has none yet:
--   psql -v ON_ERROR_STOP=1 -d keybuzz -f story.sql
INSERT INTO tenants (id, name, plan, status)
SELECT * FROM (VALUES
  ('kbz-001', 'Atelier Lumen', 'starter', 'active'),
  ('kbz-002', 'Nordic Garden Tools', 'pro', 'active'),
  ('kbz-003', 'Casa Verde Home', 'business', 'active'),
  ('kbz-004', 'Bluebird Toys', 'pro', 'trialing'),
  ('ecomlg-001', 'eComLG', 'pro', 'active'),
  ('tenant_test_dev', 'Test Dev', 'starter', 'active')
) AS story (id, name, plan, status)
 WHERE NOT EXISTS (SELECT FROM tenants)
ON CONFLICT DO NOTHING;
