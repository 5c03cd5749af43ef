select
    cast(zone_id as int) as zone_id,
    coalesce(nullif(borough, 'N/A'), 'Unknown') as borough,
    coalesce(nullif(zone_name, 'N/A'), 'Unknown') as zone_name,
    coalesce(nullif(service_zone, 'N/A'), 'Unknown') as service_zone
from {{ ref('taxi_zones') }}
