"""How fast the SCD2 merge is, beside other ways to the same table: ``rtlake bench scd2``."""
