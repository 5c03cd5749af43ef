-- A score that calls every fifth day unusual tells nothing.
select
    count(*) as day_count,
    sum(case when is_anomaly then 1 else 0 end) as anomaly_count
from {{ ref('rpt_revenue_anomalies') }}
having count(*) >= 14 and sum(case when is_anomaly then 1 else 0 end) > count(*) / 5.0
