//! x
use crate::error::Error;
pub struct Request { pub id: String, pub json: bool }
pub fn show(_: &Request, _: Option<&std::path::Path>) -> Result<String, Error> { Ok(String::new()) }
