//! The width of the output, and whether it may have colour.

use std::ffi::OsStr;

use anstyle::Style;

/// The screen that text is printed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// In terminal cells; `None`: not a terminal, so nothing is cut.
    pub width: Option<usize>,
    pub colour: bool,
}

impl Screen {
    /// The terminal of `out`, if it is one. There is colour only on a terminal that supports it, and not with
    /// `NO_COLOR` (<https://no-color.org>).
    pub fn of(out: &impl std::os::fd::AsFd) -> Screen {
        let size = rustix::termios::tcgetwinsize(out).ok();
        Screen::from(
            size.map(|s| s.ws_col),
            std::env::var_os("NO_COLOR").as_deref(),
            std::env::var_os("TERM").as_deref(),
        )
    }

    fn from(columns: Option<u16>, no_color: Option<&OsStr>, term: Option<&OsStr>) -> Screen {
        let wanted = no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|t| t != "dumb");
        Screen {
            // 0: a terminal that does not know its size.
            width: columns.map(|c| if c == 0 { 80 } else { usize::from(c) }),
            colour: columns.is_some() && wanted,
        }
    }

    /// `text` in this style, if there is colour.
    pub fn paint(self, style: Style, text: &str) -> String {
        if self.colour && style != Style::new() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_only_for_a_terminal_without_no_color() {
        let colour = |columns, no_color: Option<&str>, term: Option<&str>| {
            Screen::from(columns, no_color.map(OsStr::new), term.map(OsStr::new)).colour
        };
        assert!(colour(Some(80), None, Some("xterm")));
        assert!(colour(Some(80), Some(""), None));
        assert!(!colour(None, None, Some("xterm")));
        assert!(!colour(Some(80), Some("1"), Some("xterm")));
        assert!(!colour(Some(80), None, Some("dumb")));
    }

    #[test]
    fn a_terminal_without_a_size_counts_as_80_wide() {
        assert_eq!(Screen::from(Some(0), None, None).width, Some(80));
        assert_eq!(Screen::from(None, None, None).width, None);
    }
}
