-- labelled_documents: the documents from the first change on, with their origin and cluster.
-- The size of a cluster is as of the document: how many records, its own included, had a text of
-- the cluster up to this place in the order of instants and record ids.
-- grain: record_id, event_timestamp
-- reads: described_documents, labelled_contents, indexed_documents
with statements as (
    select
        described_documents.record_id,
        described_documents.event_timestamp,
        described_documents.run,
        labelled_contents.root_id,
        labelled_contents.origin_id,
        labelled_contents.origin_similarity
    from described_documents
    inner join labelled_contents on described_documents.content_id = labelled_contents.content_id
    where described_documents.is_statement
),

before as (
    select distinct
        root_id,
        record_id
    from indexed_documents
    where
        event_timestamp < getvariable('first_change')
        and root_id in (select statements.root_id from statements)
),

sizes_before as (
    select
        root_id,
        count(*) as n_records
    from before
    group by root_id
),

joining as (
    select
        statements.*,
        before.record_id is null
        and row_number() over (
            partition by statements.root_id, statements.record_id
            order by statements.event_timestamp
        ) = 1 as is_joining
    from statements
    left join before
        on
            statements.root_id = before.root_id
            and statements.record_id = before.record_id
),

sized as (
    select
        joining.record_id,
        joining.run,
        joining.root_id,
        joining.origin_id,
        joining.origin_similarity,
        coalesce(sizes_before.n_records, 0) + sum(joining.is_joining::int) over (
            partition by joining.root_id
            order by joining.event_timestamp, joining.record_id
        ) as cluster_size
    from joining
    left join sizes_before on joining.root_id = sizes_before.root_id
),

before_runs as (
    select
        record_id,
        run,
        root_id,
        origin_id,
        origin_similarity,
        cluster_size
    from described_documents
    where is_before
),

runs as (
    select * from sized
    union all
    select * from before_runs
)

select
    -- ids
    described_documents.record_id,
    described_documents.content_id,
    case when described_documents.content_id is not null then runs.root_id end as root_id,
    case when described_documents.content_id is not null then runs.origin_id end as origin_id,
    -- numbers
    case
        when described_documents.content_id is not null then runs.origin_similarity
    end as origin_similarity,
    case
        when described_documents.content_id is not null then runs.cluster_size
    end::bigint as cluster_size,
    -- timestamps
    described_documents.event_timestamp
from described_documents
left join runs
    on
        described_documents.record_id = runs.record_id
        and described_documents.run = runs.run
where not described_documents.is_before
