//! Tests of the `./volume` script.
