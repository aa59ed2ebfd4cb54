-- new_versions: the accepted rows that are a new version of their record; the others change nothing.
-- A row is compared with the version known just before it. Of several rows of one record known at the same instant one
-- counts: what is staged already, else what was loaded first, so that a rebuild decides as the loads did one by one; within a
-- load the newest written, else the last in the source.
-- grain: accepted_id
-- reads: accepted, staging.records
with candidates as (
    select
        accepted_id,
        load_id,
        record_id,
        source_uri,
        row_number,
        content_digest,
        event_timestamp,
        known_timestamp
    from accepted

    union all

    select
        null as accepted_id,
        load_id,
        record_id,
        source_uri,
        row_number,
        content_digest,
        event_timestamp,
        known_timestamp
    from staging.records
    where record_id in (select accepted.record_id from accepted)
),

one_an_instant as (
    select * from candidates
    qualify row_number() over (
        partition by record_id, known_timestamp
        order by accepted_id is not null asc, load_id asc, event_timestamp desc, source_uri desc, row_number desc
    ) = 1
),

changes as (
    select * from one_an_instant
    qualify content_digest is distinct from lag(content_digest) over (partition by record_id order by known_timestamp)
)

select accepted_id from changes
where accepted_id is not null
