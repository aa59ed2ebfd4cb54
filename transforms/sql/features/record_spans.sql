-- record_spans: from when to when each version of a record counts, in microseconds since 1970.
-- A version counts from the microsecond after it is written and known, until a newer one is known, and in a window until
-- it leaves it: at its event timestamp plus the window, rounded up to the hop (1 hour; 1 day for 28 days, as in Chronon).
-- A version with sign -1 is one that counted when the view was made last: what it brought then is to be taken out.
-- grain: sign, record_id, known_timestamp
-- reads: relevant_versions, features.record_quality
with versions as (
    select
        sign,
        record_id,
        author_id,
        subject_id,
        content_digest,
        is_positive,
        is_tombstone,
        greatest(event_timestamp, known_timestamp) as effective_timestamp,
        epoch_us(event_timestamp) as event_us,
        epoch_us(known_timestamp) as known_us,
        lead(epoch_us(known_timestamp)) over (partition by sign, record_id order by known_timestamp) + 1 as superseded_us
    from relevant_versions
),

quality as (
    select
        record_id,
        event_timestamp,
        max_by(n_words, created_timestamp) as n_words,
        max_by(n_characters, created_timestamp) as n_characters
    from features.record_quality
    where record_id in (select relevant_versions.record_id from relevant_versions)
    group by record_id, event_timestamp
)

select
    -- ids
    versions.record_id,
    versions.content_digest,
    versions.author_id,
    versions.subject_id,
    -- numbers
    versions.sign,
    -- of the text, null where a tombstone stands at the instant: such a version does not count, but must not make a sum null
    coalesce(quality.n_words, 0) as n_words,
    coalesce(quality.n_characters, 0) as n_characters,
    versions.is_positive::int as n_positive,
    -- instants
    versions.known_us,
    versions.event_us,
    epoch_us(versions.effective_timestamp) + 1 as starts_us,
    coalesce(versions.superseded_us, 9223372036854775807) as superseded_us,
    (versions.event_us + 86400000000 + 3599999999) // 3600000000 * 3600000000 as leaves_1d_us,
    (versions.event_us + 604800000000 + 3599999999) // 3600000000 * 3600000000 as leaves_7d_us,
    (versions.event_us + 2419200000000 + 86399999999) // 86400000000 * 86400000000 as leaves_28d_us
from versions
inner join quality
    on
        versions.record_id = quality.record_id
        and versions.effective_timestamp = quality.event_timestamp
where not versions.is_tombstone
