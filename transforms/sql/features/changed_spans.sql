-- changed_spans: of the spans of versions as they are now (sign 1) and as they were (-1), what differs between the two.
-- A version that is superseded earlier or later than before differs from the earlier of the two instants on. One that counted and
-- does not count any more is retracted: what it brought cannot be read any more, for another version may stand at its instant.
-- grain: sign, record_id, known_us
-- reads: record_spans
select
    spans.* exclude (starts_us, content_digest),
    case
        when others.record_id is null then spans.starts_us
        else greatest(spans.starts_us, least(spans.superseded_us, others.superseded_us))
    end as starts_us,
    spans.sign = -1
    and spans.superseded_us > spans.starts_us
    and coalesce(others.superseded_us <= others.starts_us, true) as is_retracted
from record_spans as spans
left join record_spans as others
    on
        spans.record_id = others.record_id
        and spans.known_us = others.known_us
        and spans.content_digest = others.content_digest
        and spans.sign = -others.sign
where coalesce(spans.superseded_us > others.superseded_us, true)
