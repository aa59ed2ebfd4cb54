-- rejections: how many rows of every load each rule rejects.
-- Rows that `schema: quarantine` rejects are left out, because they are rejected by choice.
-- grain: load_id, column, rule
-- reads: incoming, rejected
with read as (
    select
        load_id,
        count(*) as n_rows
    from incoming
    group by load_id
)

select
    rejected.load_id,
    read.n_rows,
    rejected."column",
    rejected.rule,
    count(*) as n_broken,
    min(rejected.source_uri) as source_uri,
    arg_min(rejected.row_number, (rejected.source_uri, rejected.row_number)) as row_number
from rejected
inner join read on rejected.load_id = read.load_id
where rejected.rule not in ('unknown_field', 'retyped_field')
group by rejected.load_id, read.n_rows, rejected."column", rejected.rule
order by rejected.load_id asc, n_broken desc, rejected."column" asc, rejected.rule asc
