{% test not_negative(model, column_name) %}
select {{ column_name }}
from {{ model }}
where {{ column_name }} < 0
{% endtest %}

{% test in_range(model, column_name, low, high) %}
select {{ column_name }}
from {{ model }}
where {{ column_name }} < {{ low }} or {{ column_name }} > {{ high }}
{% endtest %}

{% test unique_together(model, columns) %}
select {{ columns | join(', ') }}
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1
{% endtest %}

{% test not_empty(model) %}
select 1 as problem
from (select count(*) as row_count from {{ model }}) as counted
where row_count = 0
{% endtest %}

{% test same_row_count(model, other) %}
select this.row_count, that.row_count as other_row_count
from (select count(*) as row_count from {{ model }}) as this
cross join (select count(*) as row_count from {{ other }}) as that
where this.row_count <> that.row_count
{% endtest %}
