-- migrate:up

-- Since when the account may not be asked any more; null while it is connected.
alter table connections add column disconnected_at timestamptz;

-- migrate:down
alter table connections drop column disconnected_at;
