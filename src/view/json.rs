//! Values as JSON text, in which control characters are escaped.

use serde::Serialize;

use super::text;

/// On one line, and a newline.
pub fn json_line(shown: &impl Serialize) -> String {
    plain(serde_json::to_string(shown))
}

/// On several lines, and a newline.
pub fn pretty(shown: &impl Serialize) -> String {
    plain(serde_json::to_string_pretty(shown))
}

/// What is shown has text keys only, which always is JSON: there is no error to tell.
fn plain(json: serde_json::Result<String>) -> String {
    json.map(|text| text::harmless_json(text) + "\n").unwrap_or_default()
}
