//! x
use crate::error::Error;
pub enum Output {Table,Json,JsonLines}
pub struct Request { pub status: Option<crate::task::Status>, pub key: Option<String>, pub limit: usize, pub output: Output }
pub fn list(_: &Request, _: Option<&std::path::Path>) -> Result<String, Error> { Ok(String::new()) }
