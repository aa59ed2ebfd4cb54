-- record_changes: the instants at which a record begins or ceases to count, with its weight (+1, 0, -1) in each window.
-- What counted when the view was made last (sign -1) comes with the opposite weight, and so is taken out.
-- An instant that was once announced stays, with weight 0 where a newer version came before: so a table that was
-- computed earlier and one computed now have the same rows.
-- grain: none
-- reads: record_spans
with spans as (
    select
        *,
        superseded_us > starts_us as is_counted,
        leaves_1d_us > starts_us as enters_1d,
        leaves_7d_us > starts_us as enters_7d,
        leaves_28d_us > starts_us as enters_28d
    from record_spans
),

begins as (
    select
        author_id,
        subject_id,
        starts_us as instant_us,
        n_words,
        n_characters,
        n_positive,
        sign * (is_counted and enters_1d)::int as weight_1d,
        sign * (is_counted and enters_7d)::int as weight_7d,
        sign * (is_counted and enters_28d)::int as weight_28d,
        sign * is_counted::int as weight_lifetime,
        case when is_counted and sign > 0 then event_us end as event_us
    from spans
),

leaves_1d as (
    select
        author_id,
        subject_id,
        leaves_1d_us as instant_us,
        n_words,
        n_characters,
        n_positive,
        -sign * (is_counted and leaves_1d_us <= superseded_us)::int as weight_1d,
        0 as weight_7d,
        0 as weight_28d,
        0 as weight_lifetime,
        null as event_us
    from spans
    where enters_1d
),

leaves_7d as (
    select
        author_id,
        subject_id,
        leaves_7d_us as instant_us,
        n_words,
        n_characters,
        n_positive,
        0 as weight_1d,
        -sign * (is_counted and leaves_7d_us <= superseded_us)::int as weight_7d,
        0 as weight_28d,
        0 as weight_lifetime,
        null as event_us
    from spans
    where enters_7d
),

leaves_28d as (
    select
        author_id,
        subject_id,
        leaves_28d_us as instant_us,
        n_words,
        n_characters,
        n_positive,
        0 as weight_1d,
        0 as weight_7d,
        -sign * (is_counted and leaves_28d_us <= superseded_us)::int as weight_28d,
        0 as weight_lifetime,
        null as event_us
    from spans
    where enters_28d
),

superseded as (
    select
        author_id,
        subject_id,
        superseded_us as instant_us,
        n_words,
        n_characters,
        n_positive,
        -sign * (enters_1d and superseded_us < leaves_1d_us)::int as weight_1d,
        -sign * (enters_7d and superseded_us < leaves_7d_us)::int as weight_7d,
        -sign * (enters_28d and superseded_us < leaves_28d_us)::int as weight_28d,
        -sign as weight_lifetime,
        null as event_us
    from spans
    where is_counted and superseded_us < 9223372036854775807
)

select * from begins
union all
select * from leaves_1d
union all
select * from leaves_7d
union all
select * from leaves_28d
union all
select * from superseded
