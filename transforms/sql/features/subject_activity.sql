-- subject_activity: what was written about a subject lately and so far.
-- grain: subject_id, event_timestamp
-- reads: entity_activity (over record_changes by subject_id)
select
    entity_id as subject_id,
    * exclude (entity_id)
from entity_activity
