-- standing_document: what the index of duplicates says of a record at an instant; nothing before the record's first.
-- grain: record_id
-- reads: duplicates.documents
select *
from duplicates.documents
where
    record_id = $record_id
    and event_timestamp <= $at
qualify row_number() over (partition by record_id order by event_timestamp desc, created_timestamp desc) = 1
