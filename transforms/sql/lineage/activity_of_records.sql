-- activity_of_records: what the features of an author or a subject must be, added up from the records that count.
-- grain: none
-- reads: counted_records
select
    -- numbers
    count(*) filter (where is_in_1d) as n_records_1d,
    count(*) filter (where is_in_7d) as n_records_7d,
    count(*) filter (where is_in_28d) as n_records_28d,
    count(*) filter (where is_in_lifetime) as n_records_lifetime,
    coalesce(sum(n_words) filter (where is_in_1d), 0)::bigint as n_words_1d,
    coalesce(sum(n_words) filter (where is_in_7d), 0)::bigint as n_words_7d,
    coalesce(sum(n_words) filter (where is_in_28d), 0)::bigint as n_words_28d,
    coalesce(sum(n_words) filter (where is_in_lifetime), 0)::bigint as n_words_lifetime,
    avg(n_characters) filter (where is_in_1d) as mean_characters_1d,
    avg(n_characters) filter (where is_in_7d) as mean_characters_7d,
    avg(n_characters) filter (where is_in_28d) as mean_characters_28d,
    avg(n_characters) filter (where is_in_lifetime) as mean_characters_lifetime,
    avg(is_positive::int) filter (where is_in_1d) as positive_ratio_1d,
    avg(is_positive::int) filter (where is_in_7d) as positive_ratio_7d,
    avg(is_positive::int) filter (where is_in_28d) as positive_ratio_28d,
    avg(is_positive::int) filter (where is_in_lifetime) as positive_ratio_lifetime,
    -- timestamps, in whole seconds as in the views
    date_trunc('second', min(event_timestamp)) as first_event_timestamp
from counted_records
