//! Agents that are data: a declaration says how their command line and their output are read.

mod adapter;
mod arguments;
mod check;
mod error;
mod files;
mod parse;
mod reader;
mod schema;
mod tally;
mod transcript;
mod value;
mod wanted;

pub use adapter::DeclaredAdapter;
pub use error::DeclarationError;
pub use files::{declaration_file, files};
pub use parse::parse;
