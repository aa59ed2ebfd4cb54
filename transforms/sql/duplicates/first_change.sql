-- first_change: the first instant at which a record says something else than the index holds; null if none does.
-- grain: none
-- reads: incoming, held_documents
select min(incoming.event_timestamp) as event_timestamp
from incoming
left join held_documents
    on
        incoming.record_id = held_documents.record_id
        and incoming.event_timestamp = held_documents.event_timestamp
where held_documents.record_id is null or incoming.content_id is distinct from held_documents.content_id
