//! Values for people: durations, ages, money, ids, and text of unknown origin.

use std::borrow::Cow;

use unicode_width::UnicodeWidthStr;

use crate::log::is_harmful;
use crate::task::{RecordedTime, Time};

/// Text of unknown origin on one line, with control characters escaped.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// The same JSON with control characters in its strings escaped. A parser sees no difference, and the text
/// cannot control a terminal.
pub fn harmless_json(json: String) -> String {
    // Outside of strings JSON has only line breaks; inside, line breaks are escaped already.
    let is_harmful = |c: char| c != '\n' && is_harmful(c);
    if !json.contains(is_harmful) {
        return json;
    }
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if is_harmful(c) {
            safe.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// The width of `text` in terminal cells.
pub fn cells(text: &str) -> usize {
    text.width()
}

/// The limit of characters per cell that are examined where text is cut: combining marks take no room, so a
/// text of nothing else would be examined to its end.
const STACKED: usize = 8;

fn fits(text: &str, room: usize) -> bool {
    cells(text) <= room && text.chars().nth(room * STACKED).is_none()
}

/// The start of `text` that fits into `room` cells, with `…` if the rest is cut.
pub fn cut(text: &str, room: usize) -> Cow<'_, str> {
    if fits(text, room) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", start_below(text, room)))
}

/// The longest start of `text` that is less than `room` cells wide.
fn start_below(text: &str, room: usize) -> &str {
    let mut end = 0;
    for (at, c) in text.char_indices().take(room * STACKED) {
        let next = at + c.len_utf8();
        if cells(&text[..next]) >= room {
            break;
        }
        end = next;
    }
    &text[..end]
}

/// The start and the end of `text`, with `…` for what does not fit into `room` cells.
pub fn cut_middle(text: &str, room: usize) -> Cow<'_, str> {
    if fits(text, room) {
        return Cow::Borrowed(text);
    }
    let end = cut_start(text, room.div_ceil(2));
    let start = start_below(text, (room + 1).saturating_sub(cells(&end)));
    Cow::Owned(format!("{start}{end}"))
}

/// The end of `text` that fits into `room` cells, with `…` if the start is cut.
pub fn cut_start(text: &str, room: usize) -> Cow<'_, str> {
    if fits(text, room) {
        return Cow::Borrowed(text);
    }
    let mut start = text.len();
    for (at, _) in text.char_indices().rev().take(room * STACKED) {
        if cells(&text[at..]) >= room {
            break;
        }
        start = at;
    }
    Cow::Owned(format!("…{}", &text[start..]))
}

/// Milliseconds as a duration: `0.04s`, `12s`, `3m 05s`, `2h 07m`, `4d 03h`.
pub fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    let s = ms / 1000;
    match s {
        0..10 => format!("{}.{:02}s", s, ms % 1000 / 10),
        10..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d {:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// A time, or the text that a ledger holds instead.
pub fn when(time: &RecordedTime) -> String {
    one_line(&time.to_string()).into_owned()
}

/// The age of a time in its largest unit; the text itself if it is not a time.
pub fn ago(time: &RecordedTime, now: Time) -> String {
    match since(time, now) {
        None => when(time),
        Some(ms) => match ms / 1000 {
            s @ 0..60 => format!("{s}s ago"),
            s @ 60..3600 => format!("{}m ago", s / 60),
            s @ 3600..172_800 => format!("{}h ago", s / 3600),
            s => format!("{}d ago", s / 86_400),
        },
    }
}

/// Milliseconds since a time; 0 if the clock was set back.
pub fn since(time: &RecordedTime, now: Time) -> Option<i64> {
    let then = time.time()?;
    Some((now.unix_millis() - then.unix_millis()).max(0))
}

/// A number in groups of three digits: `1,234,567`.
pub fn count(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut text = if n < 0 { "-".to_owned() } else { String::new() };
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// US dollars, with as many digits as small sums need.
pub fn money(usd: f64) -> String {
    match usd.abs() {
        // A row of another program: hundreds of digits do not help.
        size if size > 1e15 => format!("${usd:.2e}"),
        size if size != 0.0 && size < 0.095 => format!("${usd:.4}"),
        _ => format!("${usd:.2}"),
    }
}

/// The length that covers the millisecond timestamp of a UUIDv7 (RFC 9562, section 5.7).
const SHORTEST_ID: usize = 13;

/// The ids as shown: UUIDs are cut to the length at which the listed ones differ; ids that a user chose stay
/// whole.
pub fn short_ids<'a>(ids: &[&'a str]) -> Vec<&'a str> {
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let neighbours = sorted.windows(2).map(|pair| common(pair[0], pair[1]) + 1);
    let length = neighbours.max().unwrap_or(0).max(SHORTEST_ID);
    ids.iter()
        .map(|id| if is_uuid(id) { id[..length.min(id.len())].trim_end_matches('-') } else { id })
        .collect()
}

fn is_uuid(id: &str) -> bool {
    id.len() == 36
        && id.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(one_line("\x1b[31mred\r\n\u{202e}x"), "\\u{1b}[31mred\\r\\n\\u{202e}x");
        assert_eq!(one_line("schön 日本 e\u{301} ❤"), "schön 日本 e\u{301} ❤");
        assert_eq!(one_line("❤\u{fe0f}"), "❤\\u{fe0f}");
        assert_eq!(one_line("a\u{200b}b\u{feff}\u{9b}"), "a\\u{200b}b\\u{feff}\\u{9b}");
    }

    #[test]
    fn every_control_format_and_ignorable_character_is_escaped() {
        use regex_syntax::hir::{Class, HirKind};
        let classes = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]";
        let parsed = regex_syntax::parse(classes).unwrap();
        let HirKind::Class(Class::Unicode(set)) = parsed.kind() else { panic!("{parsed:?}") };
        let is_in_set = |c: char| set.ranges().iter().any(|r| (r.start()..=r.end()).contains(&c));
        for c in '\0'..=char::MAX {
            let shown = one_line(c.encode_utf8(&mut [0; 4])).into_owned();
            assert_eq!(shown != c.to_string(), is_in_set(c), "{c:?}");
            assert!(!shown.contains(is_in_set), "{c:?}");
        }
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({ "a\u{7f}": "\u{9b}2J\u{202e}\n\u{e0041}", "b": "ü" });
        let safe = harmless_json(serde_json::to_string_pretty(&value).unwrap());
        assert!(!safe.contains(|c| c != '\n' && is_harmful(c)) && safe.contains('ü'), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }

    #[test]
    fn a_very_long_text_is_cut_quickly() {
        let long = "x".repeat(4 << 20);
        assert_eq!((cut(&long, 4).as_ref(), cut_start(&long, 4).as_ref()), ("xxx…", "…xxx"));
        let stacked = format!("{}{}", "e", "\u{301}".repeat(4 << 20));
        for text in [format!("{stacked}{long}"), stacked] {
            assert!([cut, cut_start, cut_middle].iter().all(|cut| cut(&text, 4).len() < 100));
        }
    }

    #[test]
    fn cut_text_counts_wide_characters() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("abc", 1), "…");
        assert_eq!(cut_start("abcdef", 6), "abcdef");
        assert_eq!(cut_start("abcdef", 4), "…def");
        assert_eq!(cut_start("日本語", 4), "…語");
        assert_eq!(cut_middle("abcdef", 6), "abcdef");
        assert_eq!(cut_middle("abcdef", 5), "ab…ef");
        assert_eq!(cut_middle("abcdef", 4), "ab…f");
        assert_eq!(cut_middle("日本語日本語", 7), "日本…語");
        assert_eq!(cut_middle("abc", 1), "…");
    }

    #[test]
    fn durations_keep_two_units_at_most() {
        let said = [40, 9_999, 59_000, 185_000, 7_620_000, 356_400_000].map(duration);
        assert_eq!(said, ["0.04s", "9.99s", "59s", "3m 05s", "2h 07m", "4d 03h"]);
    }

    #[test]
    fn an_age_is_never_negative_and_an_unreadable_time_is_shown() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let ago = |time: &str| ago(&RecordedTime::recorded(time.to_owned()), now);
        assert_eq!(ago("2026-11-21T12:00:05Z"), "0s ago");
        assert_eq!(ago("2026-11-21T11:00:00.500Z"), "59m ago");
        assert_eq!(ago("2026-11-18T11:00:00Z"), "3d ago");
        assert_eq!(ago("1763726400"), "1763726400");
    }

    #[test]
    fn small_sums_are_not_rounded_to_zero() {
        assert_eq!([0.0, 0.0008, 0.05, 1.234].map(money), ["$0.00", "$0.0008", "$0.0500", "$1.23"]);
        assert_eq!([2e12, 1e308].map(money), ["$2000000000000.00", "$1.00e308"]);
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!([0, 999, 1000, -1_234_567].map(count), ["0", "999", "1,000", "-1,234,567"]);
    }

    #[test]
    fn shortened_uuids_stay_unique_and_chosen_ids_stay_whole() {
        let a = "019a8b3c-4d5e-7000-8000-000000000001";
        let b = "019a8b3c-4d5e-7001-8000-000000000001";
        let c = "019a8b3c-9d5e-7001-8000-000000000001";
        assert_eq!(short_ids(&[a, c]), ["019a8b3c-4d5e", "019a8b3c-9d5e"]);
        assert_eq!(short_ids(&[a, b]), ["019a8b3c-4d5e-7000", "019a8b3c-4d5e-7001"]);
        assert_eq!(short_ids(&["nightly-of-the-22nd"]), ["nightly-of-the-22nd"]);
    }
}
