//! Takes the place of the reader in a build without the client of PostgreSQL: instead of connecting, this
//! process continues as the other program.

use super::other_program::continue_there;
use super::rows::{FleetAudit, FleetHistory, FleetPage, FleetPlace, OrderAnswer};
use crate::error::Error;
use crate::task::{FleetTask, GroupBy, Key, Task, TaskFilter, TaskId, TaskStats};

/// The type of the reader. It has no value: connecting never succeeds.
#[derive(Debug)]
pub enum AbsentReader {}

impl AbsentReader {
    pub fn connect(_: &str) -> Result<AbsentReader, Error> {
        Err(continue_there())
    }

    pub fn connect_to_follow(url: &str) -> Result<AbsentReader, Error> {
        AbsentReader::connect(url)
    }

    pub fn page(
        &self,
        _: &TaskFilter,
        _: bool,
        _: Option<&FleetPlace>,
        _: usize,
    ) -> Result<FleetPage, Error> {
        match *self {}
    }

    pub fn count(&self, _: &TaskFilter, _: &[TaskId], _: usize) -> Result<usize, Error> {
        match *self {}
    }

    pub fn in_flight_since(&self, _: &TaskFilter) -> Result<Vec<FleetTask>, Error> {
        match *self {}
    }

    pub fn with_prefix(&self, _: &str) -> Result<Vec<FleetTask>, Error> {
        match *self {}
    }

    pub fn newest(&self, _: Option<&Key>) -> Result<Option<FleetTask>, Error> {
        match *self {}
    }

    pub fn history(&self, _: &Task) -> Result<FleetHistory, Error> {
        match *self {}
    }

    pub fn stats(
        &self,
        _: (&[GroupBy], usize),
        _: &TaskFilter,
        _: &[TaskId],
        _: &[&Task],
    ) -> Result<TaskStats, Error> {
        match *self {}
    }

    pub fn task(&self, _: &TaskId) -> Result<Option<FleetTask>, Error> {
        match *self {}
    }

    pub fn order_cancel(&self, _: &TaskId) -> Result<OrderAnswer, Error> {
        match *self {}
    }

    pub fn order_result(&self, _: i64) -> Result<Option<String>, Error> {
        match *self {}
    }

    pub fn audit(&self) -> Result<FleetAudit, Error> {
        match *self {}
    }
}
