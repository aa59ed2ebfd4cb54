-- first_change: the first instant at which a record says something else than the index holds; null if none does.
-- grain: none
-- reads: arriving_documents, held_documents
select min(arriving_documents.event_timestamp) as event_timestamp
from arriving_documents
left join held_documents
    on
        arriving_documents.record_id = held_documents.record_id
        and arriving_documents.event_timestamp = held_documents.event_timestamp
where held_documents.record_id is null or arriving_documents.content_id is distinct from held_documents.content_id
