-- moved_rows: staged rows that turn out to be duplicates, and duplicate rows that become versions.
-- grain: load_id, source_uri, row_number
-- reads: earlier_rows, versions
with kept as (
    select earlier_id from versions
    where earlier_id is not null
)

select * from earlier_rows
where is_staged <> (earlier_id in (select kept.earlier_id from kept))
