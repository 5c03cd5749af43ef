{# What the engines spell differently. One macro each; everything else in the project is common SQL. #}

{% macro iso_weekday(moment) %}{{ return(adapter.dispatch('iso_weekday', 'rtlake_taxi')(moment)) }}{% endmacro %}
{% macro default__iso_weekday(moment) %}isodow({{ moment }}){% endmacro %}
{% macro spark__iso_weekday(moment) %}(weekday({{ moment }}) + 1){% endmacro %}

{% macro seconds_between(first, last) %}{{ return(adapter.dispatch('seconds_between', 'rtlake_taxi')(first, last)) }}{% endmacro %}
{% macro default__seconds_between(first, last) %}date_diff('second', {{ first }}, {{ last }}){% endmacro %}
{% macro spark__seconds_between(first, last) %}timestampdiff(second, {{ first }}, {{ last }}){% endmacro %}

{# One row for each day from the first to the last of a relation: a table expression with a column day_date. #}
{% macro days_between(relation, column) %}{{ return(adapter.dispatch('days_between', 'rtlake_taxi')(relation, column)) }}{% endmacro %}
{% macro default__days_between(relation, column) %}
    select cast(unnest(generate_series(min({{ column }}), max({{ column }}), interval 1 day)) as date) as day_date
    from {{ relation }}
{% endmacro %}
{% macro spark__days_between(relation, column) %}
    select explode(sequence(min({{ column }}), max({{ column }}), interval 1 day)) as day_date
    from {{ relation }}
{% endmacro %}

{# The incremental strategy that replaces rows by their key. #}
{% macro replace_by_key() %}{{ return(adapter.dispatch('replace_by_key', 'rtlake_taxi')()) }}{% endmacro %}
{% macro default__replace_by_key() %}{{ return('delete+insert') }}{% endmacro %}
{% macro spark__replace_by_key() %}{{ return('merge') }}{% endmacro %}
