-- changed_documents: the documents whose values are others than the index holds.
-- grain: record_id, event_timestamp
-- reads: labelled_documents, held_documents
select labelled_documents.*
from labelled_documents
left join held_documents
    on
        labelled_documents.record_id = held_documents.record_id
        and labelled_documents.event_timestamp = held_documents.event_timestamp
where
    held_documents.record_id is null
    or labelled_documents.content_id is distinct from held_documents.content_id
    or labelled_documents.root_id is distinct from held_documents.root_id
    or labelled_documents.origin_id is distinct from held_documents.origin_id
    or labelled_documents.origin_similarity is distinct from held_documents.origin_similarity
    or labelled_documents.cluster_size is distinct from held_documents.cluster_size
