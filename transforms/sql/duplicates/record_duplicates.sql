-- record_duplicates: the new or changed rows of the view of that name, from documents of the index.
-- grain: record_id, event_timestamp
-- reads: index_documents, published_duplicates
with documents as (
    select
        record_id,
        event_timestamp,
        origin_id <> record_id as has_origin,
        origin_id,
        origin_similarity,
        cluster_size
    from index_documents
    qualify row_number() over (
        partition by record_id, event_timestamp
        order by created_timestamp desc
    ) = 1
),

computed as (
    select
        -- ids
        record_id,
        case when has_origin then origin_id end as dup_of,
        -- numbers
        case when has_origin then origin_similarity end as dup_similarity,
        cluster_size as dup_cluster_size,
        -- flags
        has_origin::bigint as is_duplicate,
        -- timestamps
        event_timestamp
    from documents
),

published as (
    select * from published_duplicates
    where record_id in (select computed.record_id from computed)
    qualify row_number() over (
        partition by record_id, event_timestamp
        order by created_timestamp desc
    ) = 1
)

select
    computed.*,
    published.record_id is null as is_new
from computed
left join published
    on
        computed.record_id = published.record_id
        and computed.event_timestamp = published.event_timestamp
where
    published.record_id is null
    or computed.dup_of is distinct from published.dup_of
    or computed.dup_similarity is distinct from published.dup_similarity
    or computed.dup_cluster_size is distinct from published.dup_cluster_size
    or computed.is_duplicate is distinct from published.is_duplicate
