//! Signals by their names.

use signal_hook::low_level;

/// `SIGTERM`, or `signal 40` for a signal without a name.
pub fn signal_name(number: i32) -> String {
    low_level::signal_name(number).map_or_else(|| format!("signal {number}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_time_signal_is_called_by_its_number() {
        assert_eq!((signal_name(15).as_str(), signal_name(40).as_str()), ("SIGTERM", "signal 40"));
    }
}
