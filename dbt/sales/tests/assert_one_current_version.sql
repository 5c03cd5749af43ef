-- A sale has at most one current version, and it is neither closed nor deleted.
select sale_id, count(*) as versions
from {{ ref('stg_sales_versions') }}
where is_current
group by 1
having count(*) > 1 or count(valid_to) > 0 or count_if(is_deleted) > 0
