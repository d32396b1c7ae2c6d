//! The conversation of `logs`: what was said, and which tools were called.

use anstyle::{AnsiColor, Style};

use super::screen::Screen;
use super::text::{cut, one_line};
use crate::task::Time;

/// The lines that are shown of the output of a tool.
const LINES: usize = 3;
/// The width of a line of it where stdout is not a terminal.
const WIDE: usize = 200;
/// The indentation of text, so that no text looks like the first line of a block.
const INDENT: &str = "  ";

/// One block of the log.
#[derive(Debug)]
pub enum LogBlock<'a> {
    /// Shown in full.
    Said { by: &'static str, text: &'a str },
    /// Shown on one line.
    Call { tool: &'a str, about: &'a str },
    /// Only its beginning is shown. `of`: its heading.
    Brief { of: Option<&'a str>, text: &'a str, failed: bool },
}

/// The lines of a block. An empty line is before each that has a heading.
pub fn log_block(at: Option<Time>, block: &LogBlock<'_>, screen: Screen) -> String {
    let room = screen.width.unwrap_or(WIDE).saturating_sub(INDENT.len()).max(1);
    match block {
        LogBlock::Said { by, text } => {
            let colour = if *by == "prompt" { AnsiColor::Cyan } else { AnsiColor::Green };
            let head = head(at, &screen.paint(colour.on_default(), by));
            text.trim_end().lines().fold(head, |block, line| block + &indented(line))
        }
        LogBlock::Call { tool, about } => {
            let first = about.trim().lines().next().unwrap_or_default();
            let tool = one_line(tool);
            let about = if first.is_empty() { String::new() } else { format!(": {}", clean(first)) };
            let shown = screen.paint(Style::new().bold(), &tool);
            let taken = prefix(at).chars().count() + tool.chars().count();
            let room = screen.width.unwrap_or(WIDE).saturating_sub(taken).max(1);
            head(at, &format!("{shown}{}", cut(&about, room)))
        }
        LogBlock::Brief { of, text, failed } => {
            let head = of.map(|of| head(at, &one_line(of))).unwrap_or_default();
            let text = text.trim_end();
            let note = if *failed { "failed: " } else { "" };
            let all = text.lines().count();
            let lines = text.lines().take(if all > LINES + 1 { LINES } else { all });
            let mut block = head;
            for (nth, line) in lines.enumerate() {
                let line = format!("{}{}", if nth == 0 { note } else { "" }, clean(line));
                block += &format!("{INDENT}{}\n", cut(&line, room));
            }
            match (all, *failed) {
                (0, true) => block += &format!("{INDENT}failed\n"),
                (0, false) => {}
                _ if all > LINES + 1 => block += &format!("{INDENT}… {} more lines\n", all - LINES),
                _ => {}
            }
            block
        }
    }
}

fn prefix(at: Option<Time>) -> String {
    at.map(|at| format!("{at}  ")).unwrap_or_default()
}

fn head(at: Option<Time>, rest: &str) -> String {
    format!("\n{}{rest}\n", prefix(at))
}

fn indented(line: &str) -> String {
    format!("{INDENT}{}", clean(line)).trim_end().to_owned() + "\n"
}

/// A line of unknown origin. Tabs are spaces.
fn clean(line: &str) -> String {
    one_line(&line.replace('\t', "    ")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(block: &LogBlock<'_>, width: Option<usize>) -> String {
        let at = "2026-11-30T06:25:45.358Z".parse().ok();
        log_block(at, block, Screen { width, colour: false })
    }

    #[test]
    fn what_was_said_is_shown_in_full_and_harmless() {
        let text = "first\n\n\tsecond \x1b[31m\r\n2026-11-30T06:25:45.358Z  answer\n\n";
        assert_eq!(
            shown(&LogBlock::Said { by: "prompt", text }, Some(80)),
            "\n2026-11-30T06:25:45.358Z  prompt\n  first\n\n      second \\u{1b}[31m\n  \
             2026-11-30T06:25:45.358Z  answer\n"
        );
    }

    #[test]
    fn a_call_is_one_line_that_fits() {
        let long = format!("cargo test\n{}", "x".repeat(300));
        let call = |about: &str, width| shown(&LogBlock::Call { tool: "Bash", about }, width);
        assert_eq!(call(&long, Some(80)), "\n2026-11-30T06:25:45.358Z  Bash: cargo test\n");
        assert_eq!(call("", Some(80)), "\n2026-11-30T06:25:45.358Z  Bash\n");
        let long = "x".repeat(300);
        let widths = [(Some(80), 80), (Some(200), 200), (None, 200)];
        for (width, cells) in widths {
            assert_eq!(call(&long, width).trim().chars().count(), cells);
        }
    }

    #[test]
    fn of_a_long_output_the_beginning_is_shown() {
        let brief = |text: &str, failed| shown(&LogBlock::Brief { of: None, text, failed }, Some(20));
        assert_eq!(brief("1\n2\n3\n4\n", false), "  1\n  2\n  3\n  4\n");
        assert_eq!(brief("1\n2\n3\n4\n5", false), "  1\n  2\n  3\n  … 2 more lines\n");
        assert_eq!(brief(&"x".repeat(300), true), format!("  failed: {}…\n", "x".repeat(9)));
        assert_eq!((brief("", false), brief(" \n", true)), (String::new(), "  failed\n".to_owned()));
        assert_eq!(
            shown(&LogBlock::Brief { of: Some("Bash result"), text: "1", failed: false }, None),
            "\n2026-11-30T06:25:45.358Z  Bash result\n  1\n"
        );
    }
}
