-- indexed_documents: what each record said from an instant on, as the index has it: the newest row of every record and instant.
-- Few instants have several rows, and only these are put in order, which is dear: the others are told by a hash of their own.
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
    qualify row_number() over (partition by record_id, event_timestamp order by created_timestamp desc) = 1
),

held as (
    select * from documents
    where place not in (select repeated.place from repeated)

    union all

    select * from newest
)

select * exclude (created_timestamp, place)
from held
