-- span_labels: what became known of an entity in the horizon after an instant, its end included.
-- A record counts if it began to meet the condition after the instant, and meets it at the end of
-- the horizon, by the version in effect then. Buckets as long as the horizon keep the join small.
-- grain: entity_id, instant_us
-- reads: asked_rows, label_spans
with horizons as (
    select distinct
        entity_id,
        instant_us,
        instant_us + $horizon_us as until_us,
        instant_us // $horizon_us as bucket
    from asked_rows
),

buckets as (
    select
        * exclude (bucket),
        bucket + unnest([0, 1]) as bucket
    from horizons
),

spans as (
    select
        *,
        starts_us // $horizon_us as bucket
    from label_spans
),

reached as (
    select
        buckets.entity_id,
        buckets.instant_us,
        spans.record_id,
        spans.starts_us,
        spans.value
    from buckets
    inner join spans
        on
            buckets.entity_id = spans.entity_id
            and buckets.bucket = spans.bucket
    where
        spans.starts_us > buckets.instant_us
        and spans.effective_us <= buckets.until_us
        and spans.superseded_us > buckets.until_us
)

select
    entity_id,
    instant_us,
    count(*) as n_records,
    first(value order by starts_us, record_id) as next_value
from reached
group by entity_id, instant_us
