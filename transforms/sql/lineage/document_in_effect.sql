-- document_in_effect: a record's entry in the index of duplicates at an instant, if it has one yet.
-- Entries added after the view was last made, by a run that was then killed, are ignored.
-- grain: record_id
-- reads: duplicates.documents, features.record_duplicates
select *
from duplicates.documents
where
    record_id = $record_id
    and event_timestamp <= $at
    and created_timestamp <= (
        select max(record_duplicates.created_timestamp) from features.record_duplicates
    )
qualify
    row_number() over (
        partition by record_id
        order by event_timestamp desc, created_timestamp desc
    ) = 1
