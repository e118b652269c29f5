-- migrate:up

-- Where each tenant's mail may come to, as tenant.synced said last.
create table inbound_addresses (
    email       text    primary key, -- lower case
    tenant_id   text    not null,
    marketplace text    not null,
    country     text    not null,
    enabled     boolean not null,
    verified    boolean not null -- a mail of the marketplace has come to it
);
create index inbound_addresses_of_tenant on inbound_addresses (tenant_id);

-- How far each mailbox is read, and by whom.
create table mailboxes (
    name         text        primary key,
    uid_validity bigint,
    last_uid     bigint      not null default 0,
    leased_until timestamptz,
    lease_token  bigint      not null default 0, -- the fencing token: who lost the lease writes nothing more
    last_read_at timestamptz,
    last_mail_at timestamptz,
    last_error   text
);

alter table tickets
    alter column buyer drop not null, -- a return request may not say who
    alter column reply_by drop not null, -- nothing waits for a reply
    add column channel text not null default 'mock',
    add column language text,
    add column closed_at timestamptz, -- by a person: what was there by then waits no more
    drop constraint tickets_status_check,
    add check (status in ('OPEN', 'ANSWERED', 'CLOSED'));
alter table tickets alter column channel drop default;
update tickets set closed_at = updated_at, reply_by = null where status = 'CLOSED';
create index tickets_of_order on tickets (tenant_id, external_order_id, marketplace);
create index tickets_of_status on tickets (tenant_id, status, last_message_at desc, id desc);
create index tickets_of_channel on tickets (tenant_id, channel, last_message_at desc, id desc);
create index tickets_overdue on tickets (tenant_id, reply_by) where status = 'OPEN';

alter table external_messages
    alter column buyer drop not null,
    add column kind text not null default 'BUYER_MESSAGE',
    add column language text,
    add column inbound_address text,
    add column replies_to text[] not null default '{}', -- external ids
    add column is_loose boolean not null default false; -- what it belongs to may still come
alter table external_messages alter column kind drop default;
create index external_messages_latest on external_messages (tenant_id, received_at desc);
create index external_messages_loose on external_messages (tenant_id, marketplace, external_order_id) where is_loose;
create index external_messages_loose_replies on external_messages using gin (replies_to) where is_loose;

alter table ticket_messages
    add column kind text not null default 'BUYER_MESSAGE',
    add column created_at timestamptz not null default '-infinity'; -- before any closing
alter table ticket_messages
    alter column kind drop default,
    alter column created_at set default clock_timestamp();

create table attachments (
    id                  uuid   primary key default uuidv7(),
    external_message_id uuid   not null references external_messages (id) on delete cascade,
    name                text,
    media_type          text   not null,
    size_bytes          bigint not null,
    sha256              text, -- null, as is the content, where it was too large to be kept
    content             bytea
);
create index attachments_of_message on attachments (external_message_id);

-- Mail that belongs to nobody, or that may not be Amazon's: for a person to look at.
create table quarantined_mails (
    id          uuid        primary key default uuidv7(),
    digest      bytea       not null unique, -- SHA-256 of the mail: the same one is kept once
    mailbox     text        not null,
    reason      text        not null,
    tenant_id   text, -- where its address is known
    headers     jsonb       not null, -- those that show where it comes from, no subject, no text
    raw         bytea,      -- null once it is decided on
    received_at timestamptz not null,
    state       text        not null default 'HELD' check (state in ('HELD', 'RELEASED', 'DROPPED')),
    created_at  timestamptz not null default clock_timestamp(),
    decided_at  timestamptz,
    decided_by  text
);
create index quarantined_mails_newest on quarantined_mails (created_at desc, id desc);
create index quarantined_mails_of_state on quarantined_mails (state, created_at desc, id desc);

-- migrate:down
drop table quarantined_mails;
drop table attachments;
drop index external_messages_latest;
alter table ticket_messages drop column kind, drop column created_at;
alter table external_messages
    drop column kind, drop column language, drop column inbound_address, drop column replies_to, drop column is_loose;
drop index tickets_overdue;
drop index tickets_of_order;
alter table tickets drop column channel, drop column language, drop column closed_at, drop constraint tickets_status_check;
update tickets set status = 'CLOSED' where status = 'ANSWERED';
alter table tickets add check (status in ('OPEN', 'CLOSED'));
drop table mailboxes;
drop table inbound_addresses;
