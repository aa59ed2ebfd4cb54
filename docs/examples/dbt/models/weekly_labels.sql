-- one row a label and week: how many records were written, by how many authors
select
    label,
    date_trunc('week', event_timestamp) as week,
    count(distinct record_id) as n_records,
    count(distinct author_id) as n_authors
from millrace.staging.records
where not is_tombstone
group by all
