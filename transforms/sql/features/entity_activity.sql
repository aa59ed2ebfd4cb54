-- entity_activity: what counts for an author or a subject from each instant on, in each window.
-- Sums are of whole numbers, as double: exact below 2^53, so their order cannot change a bit, and twice as fast as hugeint.
-- grain: entity_id, event_timestamp
-- reads: all_changes (entity_changes, published_changes)
with instants as (
    select
        entity_id,
        instant_us,
        min(event_us) as event_us,
        sum(n_records_1d) as n_records_1d,
        sum(n_records_7d) as n_records_7d,
        sum(n_records_28d) as n_records_28d,
        sum(n_records_lifetime) as n_records_lifetime,
        sum(n_words_1d) as n_words_1d,
        sum(n_words_7d) as n_words_7d,
        sum(n_words_28d) as n_words_28d,
        sum(n_words_lifetime) as n_words_lifetime,
        sum(n_characters_1d) as n_characters_1d,
        sum(n_characters_7d) as n_characters_7d,
        sum(n_characters_28d) as n_characters_28d,
        sum(n_characters_lifetime) as n_characters_lifetime,
        sum(n_positive_1d) as n_positive_1d,
        sum(n_positive_7d) as n_positive_7d,
        sum(n_positive_28d) as n_positive_28d,
        sum(n_positive_lifetime) as n_positive_lifetime
    from all_changes
    group by entity_id, instant_us
),

running as (
    select
        entity_id,
        instant_us,
        min(event_us) over so_far as first_event_us,
        sum(n_records_1d) over so_far as n_records_1d,
        sum(n_records_7d) over so_far as n_records_7d,
        sum(n_records_28d) over so_far as n_records_28d,
        sum(n_records_lifetime) over so_far as n_records_lifetime,
        sum(n_words_1d) over so_far as n_words_1d,
        sum(n_words_7d) over so_far as n_words_7d,
        sum(n_words_28d) over so_far as n_words_28d,
        sum(n_words_lifetime) over so_far as n_words_lifetime,
        sum(n_characters_1d) over so_far as n_characters_1d,
        sum(n_characters_7d) over so_far as n_characters_7d,
        sum(n_characters_28d) over so_far as n_characters_28d,
        sum(n_characters_lifetime) over so_far as n_characters_lifetime,
        sum(n_positive_1d) over so_far as n_positive_1d,
        sum(n_positive_7d) over so_far as n_positive_7d,
        sum(n_positive_28d) over so_far as n_positive_28d,
        sum(n_positive_lifetime) over so_far as n_positive_lifetime
    from instants
    window so_far as (partition by entity_id order by instant_us rows between unbounded preceding and current row)
)

select
    -- ids
    entity_id,
    -- numbers
    n_records_1d::bigint as n_records_1d,
    n_records_7d::bigint as n_records_7d,
    n_records_28d::bigint as n_records_28d,
    n_records_lifetime::bigint as n_records_lifetime,
    n_words_1d::bigint as n_words_1d,
    n_words_7d::bigint as n_words_7d,
    n_words_28d::bigint as n_words_28d,
    n_words_lifetime::bigint as n_words_lifetime,
    n_characters_1d::double / nullif(n_records_1d, 0) as mean_characters_1d,
    n_characters_7d::double / nullif(n_records_7d, 0) as mean_characters_7d,
    n_characters_28d::double / nullif(n_records_28d, 0) as mean_characters_28d,
    n_characters_lifetime::double / nullif(n_records_lifetime, 0) as mean_characters_lifetime,
    n_positive_1d::double / nullif(n_records_1d, 0) as positive_ratio_1d,
    n_positive_7d::double / nullif(n_records_7d, 0) as positive_ratio_7d,
    n_positive_28d::double / nullif(n_records_28d, 0) as positive_ratio_28d,
    n_positive_lifetime::double / nullif(n_records_lifetime, 0) as positive_ratio_lifetime,
    -- timestamps
    -- whole seconds: Feast's online stores keep no finer, and a value served must be the value trained on
    make_timestamptz(first_event_us // 1000000 * 1000000) as first_event_timestamp,
    make_timestamptz(instant_us) as event_timestamp
from running
