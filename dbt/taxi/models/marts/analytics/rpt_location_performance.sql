with trips as (
    select
        pickup_zone_id,
        count(*) as trip_count,
        cast(sum(total_amount) as decimal(18, 2)) as revenue_amount,
        cast(avg(trip_distance) as double) as mean_distance_miles,
        cast(avg(tip_share) as double) as mean_tip_share
    from {{ ref('fct_trips') }}
    group by pickup_zone_id
)

select
    locations.zone_id,
    locations.zone_name,
    locations.borough,
    trips.trip_count,
    trips.revenue_amount,
    trips.mean_distance_miles,
    trips.mean_tip_share,
    cast(rank() over (order by trips.revenue_amount desc) as int) as revenue_rank
from trips
inner join {{ ref('dim_locations') }} as locations on trips.pickup_zone_id = locations.zone_id
