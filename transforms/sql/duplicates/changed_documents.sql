-- changed_documents: the documents that the index lacks or has with other values.
-- grain: record_id, event_timestamp
-- reads: labelled_documents, indexed_documents
select labelled_documents.*
from labelled_documents
left join indexed_documents
    on
        labelled_documents.record_id = indexed_documents.record_id
        and labelled_documents.event_timestamp = indexed_documents.event_timestamp
where
    indexed_documents.record_id is null
    or labelled_documents.content_id is distinct from indexed_documents.content_id
    or labelled_documents.root_id is distinct from indexed_documents.root_id
    or labelled_documents.origin_id is distinct from indexed_documents.origin_id
    or labelled_documents.origin_similarity is distinct from indexed_documents.origin_similarity
    or labelled_documents.cluster_size is distinct from indexed_documents.cluster_size
