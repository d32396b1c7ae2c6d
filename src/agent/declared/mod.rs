//! Agents that are data: a declaration says how their command line and their output are read.

#![allow(dead_code, reason = "the adapter of declared agents follows in the next commits")]

mod reader;
mod schema;
mod tally;
mod value;
mod wanted;
