-- Two versions of one sale never hold at the same instant, and none is empty.
with versions as (
    select
        sale_id,
        valid_from,
        valid_to,
        lead(valid_from) over (partition by sale_id order by valid_from) as next_from
    from {{ ref('stg_sales_versions') }}
)

select *
from versions
where valid_to <= valid_from or (next_from is not null and (valid_to is null or valid_to > next_from))
