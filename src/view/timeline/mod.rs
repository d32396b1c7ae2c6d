//! The timeline: when tasks ran, with one lane per key on a common time axis.

mod axis;
mod lanes;
mod page;
mod terminal;

pub use lanes::lanes;
pub use page::timeline_html;
pub use terminal::timeline;
