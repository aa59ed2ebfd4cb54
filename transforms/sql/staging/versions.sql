-- versions: the accepted and earlier rows that are versions of their record; others are duplicates.
-- The order of arrival only decides which of several equal rows is taken. Of the rows of a record
-- known at one instant the last written counts, then the last in the source. A version differs from
-- the one before. The only row of a record is a version; most are, and need not be sorted.
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

repeated as (
    select record_id from candidates
    group by record_id
    having count(*) > 1
),

compared as (
    select candidates.* from candidates
    semi join repeated on candidates.record_id = repeated.record_id
),

in_effect as (
    select * from compared
    qualify content_digest = first_value(content_digest) over (
        partition by record_id, known_timestamp
        order by event_timestamp desc, source_uri desc, row_number desc, load_id desc
    )
),

changes as (
    -- all rows left of one instant are equal, so the first represents it
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

union all

select
    candidates.accepted_id,
    candidates.earlier_id
from candidates
anti join repeated on candidates.record_id = repeated.record_id
