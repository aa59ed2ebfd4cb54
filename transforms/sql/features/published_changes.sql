-- published_changes: published rows of entities as changes: the first row whole, of each later one what it has more than the
-- one before. Summing them up gives the rows again; a mean times its count is within a rounding of the whole number it was made of.
-- grain: entity_id, instant_us
-- reads: published
with sums as (
    select
        entity_id,
        epoch_us(event_timestamp) as instant_us,
        epoch_us(first_event_timestamp) as event_us,
        (n_records_1d)::double as n_records_1d,
        (n_records_7d)::double as n_records_7d,
        (n_records_28d)::double as n_records_28d,
        (n_records_lifetime)::double as n_records_lifetime,
        (n_words_1d)::double as n_words_1d,
        (n_words_7d)::double as n_words_7d,
        (n_words_28d)::double as n_words_28d,
        (n_words_lifetime)::double as n_words_lifetime,
        (coalesce(round(mean_characters_1d * n_records_1d), 0))::double as n_characters_1d,
        (coalesce(round(mean_characters_7d * n_records_7d), 0))::double as n_characters_7d,
        (coalesce(round(mean_characters_28d * n_records_28d), 0))::double as n_characters_28d,
        (coalesce(round(mean_characters_lifetime * n_records_lifetime), 0))::double as n_characters_lifetime,
        (coalesce(round(positive_ratio_1d * n_records_1d), 0))::double as n_positive_1d,
        (coalesce(round(positive_ratio_7d * n_records_7d), 0))::double as n_positive_7d,
        (coalesce(round(positive_ratio_28d * n_records_28d), 0))::double as n_positive_28d,
        (coalesce(round(positive_ratio_lifetime * n_records_lifetime), 0))::double as n_positive_lifetime
    from published
)

select
    entity_id,
    instant_us,
    event_us,
    n_records_1d - lag(n_records_1d, 1, 0) over by_instant as n_records_1d,
    n_records_7d - lag(n_records_7d, 1, 0) over by_instant as n_records_7d,
    n_records_28d - lag(n_records_28d, 1, 0) over by_instant as n_records_28d,
    n_records_lifetime - lag(n_records_lifetime, 1, 0) over by_instant as n_records_lifetime,
    n_words_1d - lag(n_words_1d, 1, 0) over by_instant as n_words_1d,
    n_words_7d - lag(n_words_7d, 1, 0) over by_instant as n_words_7d,
    n_words_28d - lag(n_words_28d, 1, 0) over by_instant as n_words_28d,
    n_words_lifetime - lag(n_words_lifetime, 1, 0) over by_instant as n_words_lifetime,
    n_characters_1d - lag(n_characters_1d, 1, 0) over by_instant as n_characters_1d,
    n_characters_7d - lag(n_characters_7d, 1, 0) over by_instant as n_characters_7d,
    n_characters_28d - lag(n_characters_28d, 1, 0) over by_instant as n_characters_28d,
    n_characters_lifetime - lag(n_characters_lifetime, 1, 0) over by_instant as n_characters_lifetime,
    n_positive_1d - lag(n_positive_1d, 1, 0) over by_instant as n_positive_1d,
    n_positive_7d - lag(n_positive_7d, 1, 0) over by_instant as n_positive_7d,
    n_positive_28d - lag(n_positive_28d, 1, 0) over by_instant as n_positive_28d,
    n_positive_lifetime - lag(n_positive_lifetime, 1, 0) over by_instant as n_positive_lifetime
from sums
window by_instant as (partition by entity_id order by instant_us)
