//! Why a sweep fails as a whole.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("searching /proc for leftover processes; none was ended")]
    Proc(#[source] io::Error),
    #[error("waiting for leftover processes to end")]
    Wait(#[source] io::Error),
}

impl SweepError {
    pub fn hint(&self) -> &'static str {
        match self {
            SweepError::Proc(_) => "check that /proc is mounted",
            SweepError::Wait(_) => "the next recovery ends those that are left",
        }
    }
}

impl From<SweepError> for crate::error::Error {
    fn from(e: SweepError) -> crate::error::Error {
        let hint = e.hint();
        crate::error::Error::failed(e).hint(hint)
    }
}
