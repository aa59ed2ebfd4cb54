-- missing_instants: instants in a span at which an entity's values change and its view has no row.
-- grain: entity_id, instant_us
-- reads: expected_instants, known_instants
select distinct
    expected_instants.entity_id,
    expected_instants.instant_us
from expected_instants
anti join known_instants
    on
        expected_instants.entity_id = known_instants.entity_id
        and expected_instants.instant_us = known_instants.instant_us
where
    expected_instants.instant_us >= getvariable('from_us')
    and expected_instants.instant_us < getvariable('until_us')
