-- first_change: the first instant at which a record's text is not as in the index, or null.
-- grain: none
-- reads: arriving_documents, indexed_documents
select min(arriving_documents.event_timestamp) as event_timestamp
from arriving_documents
left join indexed_documents
    on
        arriving_documents.record_id = indexed_documents.record_id
        and arriving_documents.event_timestamp = indexed_documents.event_timestamp
where
    indexed_documents.record_id is null
    or arriving_documents.content_id is distinct from indexed_documents.content_id
