//! Faults of lookups and iterators that need no failing disk.
