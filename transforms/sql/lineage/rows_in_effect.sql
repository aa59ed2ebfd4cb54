-- rows_in_effect: at how many instants of a record view a version from a file is in effect.
-- grain: none
-- reads: staging.records, record_rows
with of_file as (
    select distinct record_id
    from staging.records
    where source_uri = $source_uri
),

instants as (
    select distinct
        record_id,
        event_timestamp
    from record_rows
    where record_id in (select of_file.record_id from of_file)
),

in_effect as (
    select
        instants.record_id,
        instants.event_timestamp,
        max_by(records.source_uri, records.known_timestamp) as source_uri
    from instants
    inner join staging.records as records
        on
            instants.record_id = records.record_id
            and greatest(records.event_timestamp, records.known_timestamp)
            <= instants.event_timestamp
    group by instants.record_id, instants.event_timestamp
)

select
    count(*) as n_rows,
    count(distinct record_id) as n_entities
from in_effect
where source_uri = $source_uri
