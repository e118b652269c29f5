-- migrate:up

-- dbmate's own table came before anybody could take it out of the service role's rights on new tables.
do $$
begin
    execute format('revoke insert, update, delete, truncate on schema_migrations from %I', current_schema());
exception
    when undefined_object then null; -- an installation whose roles have other names
end
$$;

-- migrate:down
