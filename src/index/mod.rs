//! The index: where every key lives.

pub mod table;
