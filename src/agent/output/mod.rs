//! Reads an agent's output: lines, JSON, and the events in them.

pub mod event;
pub mod forms;
pub mod json;
pub mod kept;
pub mod lines;
