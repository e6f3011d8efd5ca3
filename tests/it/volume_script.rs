//! Tests of the `./volume` script, against the real thing: what it serves, what it refuses, and what is left
//! when it is killed.

mod drives;
mod durable;
mod requests;
mod starting;
