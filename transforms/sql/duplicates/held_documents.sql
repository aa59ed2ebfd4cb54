-- held_documents: what each record said from an instant on, as the index has it: the newest row of every record and instant.
-- grain: record_id, event_timestamp
-- reads: duplicates.documents
select * exclude (created_timestamp)
from duplicates.documents
qualify row_number() over (partition by record_id, event_timestamp order by created_timestamp desc) = 1
