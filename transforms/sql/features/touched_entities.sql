-- touched_entities: authors and subjects whose activity the arrivals may change: those of all versions of their records.
-- grain: none
-- reads: arrived, staging.records
select
    author_id,
    subject_id
from staging.records
where record_id in (select arrived.record_id from arrived)
