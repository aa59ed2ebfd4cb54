-- entity_activity: what counts for an author or a subject from each instant on, in each window.
-- grain: entity_id, event_timestamp
-- reads: running (entity_instants, added up by `add_up`)
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
    make_timestamptz(event_us // 1000000 * 1000000) as first_event_timestamp,
    make_timestamptz(instant_us) as event_timestamp
from running
