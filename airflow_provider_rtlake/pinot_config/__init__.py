"""Pinot schemas and table configurations, made from ``pinot_tables/*.yaml`` or from a captured table. Pure."""
