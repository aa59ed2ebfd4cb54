-- entity_instants: what changes for an author or a subject at each instant: the changes of all records at it, added up.
-- Sums are of whole numbers, as double: exact below 2^53, so their order cannot change a bit, and twice as fast as hugeint.
-- grain: entity_id, instant_us
-- reads: all_changes (entity_changes, published_changes)
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
