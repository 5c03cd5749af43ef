select
    cast(rate_code_id as int) as rate_code_id,
    rate_code_name
from {{ ref('rate_codes') }}
