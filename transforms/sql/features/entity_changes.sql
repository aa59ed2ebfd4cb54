-- entity_changes: what each change of a record adds to the sums of its author or subject, in each window.
-- As double, for the sums' sake: whole numbers are exact below 2^53, and adding them takes half the time of hugeint.
-- grain: none
-- reads: counted_changes (record_changes by author_id or by subject_id)
select
    entity_id,
    instant_us,
    event_us,
    (weight_1d)::double as n_records_1d,
    (weight_7d)::double as n_records_7d,
    (weight_28d)::double as n_records_28d,
    (weight_lifetime)::double as n_records_lifetime,
    (weight_1d * n_words)::double as n_words_1d,
    (weight_7d * n_words)::double as n_words_7d,
    (weight_28d * n_words)::double as n_words_28d,
    (weight_lifetime * n_words)::double as n_words_lifetime,
    (weight_1d * n_characters)::double as n_characters_1d,
    (weight_7d * n_characters)::double as n_characters_7d,
    (weight_28d * n_characters)::double as n_characters_28d,
    (weight_lifetime * n_characters)::double as n_characters_lifetime,
    (weight_1d * n_positive)::double as n_positive_1d,
    (weight_7d * n_positive)::double as n_positive_7d,
    (weight_28d * n_positive)::double as n_positive_28d,
    (weight_lifetime * n_positive)::double as n_positive_lifetime
from counted_changes
