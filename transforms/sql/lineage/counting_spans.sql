-- counting_spans: from when until when each version of a record counts, in each window; by the definition, not by change points.
-- A version counts from the microsecond after it is written and known until the microsecond after a newer one is known (null: to
-- this day), and in a window until its event timestamp plus the window, rounded up to the hop.
-- grain: record_id, known_timestamp
-- reads: traced_versions, features.record_quality
with known as (
    select
        *,
        greatest(event_timestamp, known_timestamp) as effective_timestamp,
        lead(known_timestamp) over (partition by record_id order by known_timestamp) + interval 1 microsecond as superseded_timestamp
    from traced_versions
),

quality as (
    select
        record_id,
        event_timestamp,
        max_by(n_words, created_timestamp) as n_words,
        max_by(n_characters, created_timestamp) as n_characters
    from features.record_quality
    where record_id in (select traced_versions.record_id from traced_versions)
    group by record_id, event_timestamp
)

select
    -- ids
    known.record_id,
    known.author_id,
    known.subject_id,
    known.load_id,
    known.source_uri,
    known.row_number,
    -- numbers
    coalesce(quality.n_words, 0) as n_words,
    coalesce(quality.n_characters, 0) as n_characters,
    -- flags
    known.is_positive,
    -- timestamps
    known.event_timestamp,
    known.known_timestamp,
    known.effective_timestamp + interval 1 microsecond as counts_from,
    least(date_trunc('hour', known.event_timestamp + interval 25 hours - interval 1 microsecond), known.superseded_timestamp) as until_1d,
    least(date_trunc('hour', known.event_timestamp + interval 169 hours - interval 1 microsecond), known.superseded_timestamp) as until_7d,
    least(date_trunc('day', known.event_timestamp + interval 29 days - interval 1 microsecond), known.superseded_timestamp) as until_28d,
    known.superseded_timestamp as until_lifetime
from known
left join quality
    on
        known.record_id = quality.record_id
        and known.effective_timestamp = quality.event_timestamp
where not known.is_tombstone
