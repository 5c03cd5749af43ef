select
    id as sale_id,
    product_name,
    category,
    cast(price as decimal(38, 6)) as price,
    quantity,
    sale_date,
    created_at,
    effective_start_ts as valid_from,
    effective_end_ts as valid_to,
    is_current,
    is_deleted
from {{ source('history', 'source_sales_scd2_iceberg') }}
