"""Pinot schemas and table configurations, from ``pinot_tables/*.yaml`` or from a captured table. Pure."""
