-- indexed_documents: the newest row of the index for every record and instant.
-- Few instants have several rows. Sorting is expensive, so only these are sorted; a hash of the key
-- finds them.
-- grain: record_id, event_timestamp
-- reads: duplicates.documents
with documents as (
    select
        *,
        hash(record_id, event_timestamp) as place
    from duplicates.documents
),

repeated as (
    select place from documents
    group by place
    having count(*) > 1
),

newest as (
    select * from documents
    where place in (select repeated.place from repeated)
    qualify row_number() over (
        partition by record_id, event_timestamp
        order by created_timestamp desc
    ) = 1
),

newest_or_only as (
    select * from documents
    where place not in (select repeated.place from repeated)

    union all

    select * from newest
)

select * exclude (created_timestamp, place)
from newest_or_only
