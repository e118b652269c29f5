-- migrate:up

-- Since when the account is disconnected, which ended every lease; null while it is connected. What is disconnected
-- stays due: the index leaves it out, so that nobody reads past it again and again.
alter table poll_schedules add column disconnected_at timestamptz;
drop index poll_schedules_due;
create index poll_schedules_due on poll_schedules (greatest(next_due, leased_until)) where disconnected_at is null;

-- migrate:down
drop index poll_schedules_due;
create index poll_schedules_due on poll_schedules (greatest(next_due, leased_until));
alter table poll_schedules drop column disconnected_at;
