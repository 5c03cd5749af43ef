with opened as (
    select
        cast(valid_from at time zone 'UTC' as date) as day,
        count(*) as versions_opened,
        count(distinct sale_id) as sales_changed
    from {{ ref('stg_sales_versions') }}
    group by 1
),

deleted as (
    select
        cast(valid_to at time zone 'UTC' as date) as day,
        count(*) as sales_deleted
    from {{ ref('stg_sales_versions') }}
    where is_deleted and valid_to is not null
    group by 1
)

select
    coalesce(opened.day, deleted.day) as day,
    coalesce(opened.versions_opened, 0) as versions_opened,
    coalesce(opened.sales_changed, 0) as sales_changed,
    coalesce(deleted.sales_deleted, 0) as sales_deleted
from opened
full outer join deleted on opened.day = deleted.day
