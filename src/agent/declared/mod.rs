//! Agents that are data: a declaration says how their command line and their output are read.

#![allow(dead_code, reason = "the reader of events follows in the next commits")]

mod adapter;
mod arguments;
mod check;
mod error;
mod files;
mod parse;
mod schema;
mod transcript;
mod value;

pub use adapter::DeclaredAdapter;
pub use error::DeclarationError;
pub use files::{declaration_file, files};
pub use parse::parse;
