{{
    config(
        materialized='incremental',
        incremental_strategy=replace_by_key(),
        unique_key='trip_id',
        on_schema_change='fail',
        event_time='pickup_at'
    )
}}

select
    trip_id,
    source_row,
    vendor_id,
    rate_code_id,
    payment_type_id,
    pickup_zone_id,
    dropoff_zone_id,
    pickup_date,
    pickup_at,
    dropoff_at,
    passenger_count,
    trip_distance,
    duration_seconds,
    miles_per_hour,
    fare_amount,
    tip_amount,
    tolls_amount,
    total_amount,
    tip_share,
    is_weekend,
    is_airport_trip
from {{ ref('int_trip_metrics') }}
{% if is_incremental() %}
    where source_row > (select coalesce(max(known.source_row), -1) from {{ this }} as known)
{% endif %}
