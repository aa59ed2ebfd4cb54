-- first_contents: the texts of the index, numbered by when they first occur, with their labels.
-- Each comes with the record that had it first and with how many records its cluster has.
-- grain: content_id
-- reads: indexed_documents
with firsts as (
    select
        content_id,
        record_id,
        root_id,
        origin_id,
        origin_similarity,
        event_timestamp
    from indexed_documents
    where content_id is not null
    qualify row_number() over (partition by content_id order by event_timestamp, record_id) = 1
),

clusters as (
    select
        root_id,
        count(distinct record_id) as n_records
    from indexed_documents
    where root_id is not null
    group by root_id
)

select
    -- ids
    firsts.content_id,
    firsts.record_id,
    firsts.origin_id,
    -- numbers
    firsts.origin_similarity,
    clusters.n_records,
    row_number() over (order by firsts.event_timestamp, firsts.record_id) - 1 as position
from firsts
inner join clusters on firsts.root_id = clusters.root_id
