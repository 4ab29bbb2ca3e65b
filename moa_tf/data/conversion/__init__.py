"""Tables as others write them (GCT, GCTX, CSV, Parquet, with their metadata) into the competition's layout."""
