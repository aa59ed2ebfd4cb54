-- moved_rows: the rows that leave staging, as they turn out to be repeats, and the repeats that come back as versions.
-- grain: load_id, source_uri, row_number
-- reads: earlier_rows, versions
with kept as (
    select earlier_id from versions
    where earlier_id is not null
)

select * from earlier_rows
where is_staged <> (earlier_id in (select kept.earlier_id from kept))
