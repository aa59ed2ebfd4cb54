-- foreign_ids: how many accepted rows of every load have the id of another source's staged record.
-- grain: load_id
-- reads: accepted, earlier_rows
with foreign_records as (
    select distinct
        record_id,
        source
    from earlier_rows
    where is_staged and source <> getvariable('source')
),

read as (
    select
        load_id,
        count(*) as n_rows
    from accepted
    group by load_id
)

select
    accepted.load_id,
    read.n_rows,
    count(*) as n_broken,
    string_agg(distinct foreign_records.source, ', ' order by foreign_records.source) as sources,
    min(accepted.source_uri) as source_uri,
    arg_min(accepted.row_number, (accepted.source_uri, accepted.row_number)) as row_number
from accepted
inner join foreign_records on accepted.record_id = foreign_records.record_id
inner join read on accepted.load_id = read.load_id
group by accepted.load_id, read.n_rows
