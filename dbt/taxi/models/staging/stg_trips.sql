{{ config(event_time='pickup_at') }}

select
    trip_id,
    source_row,
    ingested_at,
    vendor_id,
    pickup_at,
    dropoff_at,
    passenger_count,
    trip_distance,
    rate_code_id,
    store_and_fwd_flag,
    pickup_zone_id,
    dropoff_zone_id,
    payment_type_id,
    fare_amount,
    extra as extra_amount,
    mta_tax as mta_tax_amount,
    tip_amount,
    tolls_amount,
    improvement_surcharge as improvement_surcharge_amount,
    total_amount,
    congestion_surcharge as congestion_surcharge_amount,
    airport_fee as airport_fee_amount
from {{ source('silver', 'trips') }}
