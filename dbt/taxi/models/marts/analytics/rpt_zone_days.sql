{{
    config(
        materialized='incremental',
        incremental_strategy='microbatch',
        event_time='pickup_day',
        batch_size='month',
        begin='2009-01-01',
        lookback=1,
        on_schema_change='fail',
        concurrent_batches=false,
        partition_by=(['pickup_month'] if target.type == 'spark' else none)
    )
}}

select
    cast(pickup_date as timestamp) as pickup_day,
    pickup_zone_id,
    count(*) as trip_count,
    cast(sum(total_amount) as decimal(18, 2)) as revenue_amount,
    cast(extract(year from pickup_date) * 100 + extract(month from pickup_date) as int)
        as pickup_month
from {{ ref('int_trip_metrics') }}
group by pickup_date, pickup_zone_id
