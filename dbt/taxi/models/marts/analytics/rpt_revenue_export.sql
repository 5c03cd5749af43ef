{{ config(materialized=export_materialization(), format='parquet') }}

select
    daily.day_date,
    daily.trip_count,
    daily.revenue_amount,
    anomalies.anomaly_score,
    anomalies.is_anomaly
from {{ ref('rpt_daily_revenue') }} as daily
inner join {{ ref('rpt_revenue_anomalies') }} as anomalies on daily.day_date = anomalies.day_date
