-- versions: the rows that are a version of their record, of those accepted and those known already; the others are repeats.
-- The order in which rows arrive decides nothing but which of several rows that say the same is taken. Of one record known at
-- one instant counts what the newest written row says, then the last in the source; a version differs from the one before.
-- grain: accepted_id, earlier_id (one of them is null)
-- reads: accepted, earlier_rows
with candidates as (
    select
        accepted_id,
        null as earlier_id,
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
        earlier_id,
        load_id,
        record_id,
        source_uri,
        row_number,
        content_digest,
        event_timestamp,
        known_timestamp
    from earlier_rows
),

in_effect as (
    select * from candidates
    qualify content_digest = first_value(content_digest) over (
        partition by record_id, known_timestamp
        order by event_timestamp desc, source_uri desc, row_number desc, load_id desc
    )
),

changes as (
    -- all rows of one instant say the same by now, so the first of them stands for it
    select * from in_effect
    qualify content_digest is distinct from lag(content_digest) over (
        partition by record_id
        order by known_timestamp, load_id, source_uri, row_number
    )
)

select
    accepted_id,
    earlier_id
from changes
