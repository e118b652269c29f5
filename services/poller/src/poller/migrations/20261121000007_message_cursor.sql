-- migrate:up

-- How far the source `spapi` has looked, and what it found and has not asked about yet; of the connection it names.
alter table poll_schedules add column message_cursor jsonb;

-- migrate:down
alter table poll_schedules drop column message_cursor;
