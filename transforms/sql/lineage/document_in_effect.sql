-- document_in_effect: what the index of duplicates says of a record at an instant; nothing before the record's first.
-- What the index got after the view was made last, by a run that was killed since, is not looked at.
-- grain: record_id
-- reads: duplicates.documents, features.record_duplicates
select *
from duplicates.documents
where
    record_id = $record_id
    and event_timestamp <= $at
    and created_timestamp <= (select max(record_duplicates.created_timestamp) from features.record_duplicates)
qualify row_number() over (partition by record_id order by event_timestamp desc, created_timestamp desc) = 1
