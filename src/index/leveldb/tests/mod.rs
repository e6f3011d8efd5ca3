//! Tests of the whole engine: one for each known fault, crashes, foreign indexes, and a model.

mod bare;
mod damage;
mod durability;
mod foreign;
mod lookups;
mod model;
mod power;
mod support;
