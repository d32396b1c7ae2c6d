//! `bookend monitor`.

mod asleep;
mod scale;
