"""Reading and writing files: sources, shards, tables, atomic writes."""
