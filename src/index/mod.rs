//! The index: where every key lives.

pub mod leveldb;
pub mod table;
