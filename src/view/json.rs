//! Values as JSON text, in which control characters are escaped.

use serde::Serialize;

use super::text;

/// JSON on one line, with a newline.
pub fn json_line(shown: &impl Serialize) -> String {
    plain(serde_json::to_string(shown))
}

/// JSON on several lines, with a newline.
pub fn pretty(shown: &impl Serialize) -> String {
    plain(serde_json::to_string_pretty(shown))
}

/// Values with text keys only always serialise, so there is no error to report.
fn plain(json: serde_json::Result<String>) -> String {
    json.map(|text| text::harmless_json(text) + "\n").unwrap_or_default()
}
