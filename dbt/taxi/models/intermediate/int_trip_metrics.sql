{{ config(event_time='pickup_at') }}

with trips as (
    select
        *,
        {{ seconds_between('pickup_at', 'dropoff_at') }} as duration_seconds
    from {{ ref('stg_trips') }}
),

zones as (
    select * from {{ ref('stg_zones') }}
)

select
    trips.trip_id,
    trips.source_row,
    trips.vendor_id,
    trips.rate_code_id,
    trips.payment_type_id,
    trips.pickup_zone_id,
    trips.dropoff_zone_id,
    trips.pickup_at,
    trips.dropoff_at,
    cast(trips.pickup_at as date) as pickup_date,
    cast(extract(hour from trips.pickup_at) as int) as pickup_hour,
    cast({{ iso_weekday('trips.pickup_at') }} as int) as pickup_weekday,
    trips.passenger_count,
    trips.trip_distance,
    cast(trips.duration_seconds as bigint) as duration_seconds,
    cast(
        case
            when trips.duration_seconds > 0 then trips.trip_distance * 3600.0 / trips.duration_seconds
        end as double
    ) as miles_per_hour,
    trips.fare_amount,
    trips.tip_amount,
    trips.tolls_amount,
    trips.total_amount,
    cast(
        case
            when trips.fare_amount > 0 then trips.tip_amount / trips.fare_amount
        end as double
    ) as tip_share,
    {{ iso_weekday('trips.pickup_at') }} >= 6 as is_weekend,
    coalesce(pickup_zones.service_zone in ('Airports', 'EWR'), false)
    or coalesce(dropoff_zones.service_zone in ('Airports', 'EWR'), false) as is_airport_trip
from trips
left join zones as pickup_zones on trips.pickup_zone_id = pickup_zones.zone_id
left join zones as dropoff_zones on trips.dropoff_zone_id = dropoff_zones.zone_id
