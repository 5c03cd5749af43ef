"""Renders Flink SQL jobs from a declaration. Pure: text in, text out."""
