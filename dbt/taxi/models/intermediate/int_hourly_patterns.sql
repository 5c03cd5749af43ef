select
    pickup_weekday,
    pickup_hour,
    count(*) as trip_count,
    count(distinct pickup_date) as day_count,
    cast(sum(total_amount) as decimal(18, 2)) as revenue_amount,
    cast(avg(trip_distance) as double) as mean_distance_miles
from {{ ref('int_trip_metrics') }}
group by pickup_weekday, pickup_hour
