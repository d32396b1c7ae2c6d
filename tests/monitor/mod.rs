//! `bookend monitor`.

mod asleep;
#[cfg(feature = "failpoints")]
mod ends;
mod scale;
