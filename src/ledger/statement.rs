//! Executing a statement of many values.

use rusqlite::{Error, Result, Statement, ToSql};

/// Executes a statement with all its values, which are given in the order in which it first names them: to
/// have each name looked up among all was a thirtieth of a run.
///
/// # Errors
/// Where there are more or fewer of them than it names, or one in another place.
pub fn execute(statement: &mut Statement<'_>, values: &[(&str, &dyn ToSql)]) -> Result<usize> {
    let named = statement.parameter_count();
    if named != values.len() {
        return Err(Error::InvalidParameterCount(values.len(), named));
    }
    for (index, (name, value)) in (1..).zip(values) {
        if statement.parameter_name(index) != Some(name) {
            return Err(Error::InvalidParameterName((*name).to_owned()));
        }
        statement.raw_bind_parameter(index, value)?;
    }
    statement.raw_execute()
}
