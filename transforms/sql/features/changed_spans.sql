-- changed_spans: what differs between the spans as they are (sign 1) and as they were (sign -1).
-- A version that is superseded earlier or later than before differs from the earlier of the two
-- instants on. A version that counted and no longer counts is retracted: its inputs cannot be read
-- any more, because another version may be in effect at its instant.
-- grain: sign, record_id, known_us
-- reads: record_spans
with differing as (
    select
        spans.*,
        others.superseded_us as other_superseded_us,
        others.starts_us as other_starts_us
    from record_spans as spans
    left join record_spans as others
        on
            spans.record_id = others.record_id
            and spans.known_us = others.known_us
            and spans.content_digest = others.content_digest
            and spans.sign = -others.sign
    where coalesce(spans.superseded_us > others.superseded_us, true)
)

select
    * exclude (starts_us, content_digest, other_superseded_us, other_starts_us),
    case
        when other_starts_us is null then starts_us
        else greatest(starts_us, least(superseded_us, other_superseded_us))
    end as starts_us,
    sign = -1
    and superseded_us > starts_us
    and coalesce(other_superseded_us <= other_starts_us, true) as is_retracted
from differing
