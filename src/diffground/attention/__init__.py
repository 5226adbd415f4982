"""From probed attention maps to one map per phrase."""
