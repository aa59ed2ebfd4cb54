-- lost_entities: authors and subjects of versions that counted when the view was made last, and do not any more. The earliest
-- event cannot be taken back from a minimum, so the history of these is computed again.
-- grain: none
-- reads: record_spans
with counted as (
    select *
    from record_spans
    where superseded_us > starts_us
),

present as (
    select *
    from counted
    where sign = 1
)

select
    before.author_id,
    before.subject_id
from counted as before
anti join present
    on
        before.record_id = present.record_id
        and before.known_us = present.known_us
        and before.content_digest = present.content_digest
where before.sign = -1
