//! Tests that reading by form and reading in full give the same event.

use super::*;
use crate::agent::output::event::{EventMessage, InlineTexts};
use proptest::prelude::*;

const KEYS: [&str; 20] = [
    "type",
    "subtype",
    "session_id",
    "model",
    "usage",
    "message",
    "event",
    "id",
    "name",
    "content",
    "input",
    "tool_use_id",
    "input_tokens",
    "output_tokens",
    "tasks",
    "num_turns",
    "is_backgrounded",
    "result",
    "x",
    "t\\u0079pe",
];
const STRINGS: [&str; 12] = [
    "assistant",
    "tool_use",
    "tool_result",
    "Tool",
    "",
    "a b",
    "msg_1",
    "msg_22",
    "a\\\"b",
    "\\u00e9\\n",
    "é",
    "}{",
];
const NUMBERS: [&str; 9] =
    ["0", "7", "123", "-1", "1.5", "1e3", "123456789012345", "1234567890123456", "99999999999999999999"];
const WORDS: [&str; 3] = ["true", "false", "null"];

/// A pseudo-random number generator.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn of(&mut self, of: &[&'static str]) -> &'static str {
        of[self.below(of.len())]
    }
}

/// Appends a random value with `S` in place of strings and `N` in place of numbers.
fn shape(chance: &mut Chance, depth: usize, out: &mut String) {
    match chance.below(if depth == 0 { 4 } else { 8 }) {
        0 | 1 => out.push('S'),
        2 => out.push('N'),
        3 => out.push_str(chance.of(&WORDS)),
        4 | 5 => object(chance, depth - 1, out),
        _ => {
            out.push('[');
            for i in 0..chance.below(3) {
                out.push_str(if i > 0 { "," } else { "" });
                object(chance, depth - 1, out);
            }
            out.push(']');
        }
    }
}

fn object(chance: &mut Chance, depth: usize, out: &mut String) {
    out.push('{');
    for i in 0..chance.below(6) {
        out.push_str(if i > 0 { ", " } else { "" });
        out.push_str(&format!("\"{}\":", chance.of(&KEYS)));
        shape(chance, depth, out);
    }
    out.push('}');
}

fn filled(chance: &mut Chance, shape: &str) -> String {
    let mut out = String::new();
    for c in shape.chars() {
        match c {
            'S' => out.push_str(&format!("\"{}\"", chance.of(&STRINGS))),
            'N' => out.push_str(chance.of(&NUMBERS)),
            c => out.push(c),
        }
    }
    out
}

/// An event with its texts and counts stored in it.
fn plain<T>(event: &OutputEvent<'_, T>, texts: &impl EventTexts<T>) -> OutputEvent<'static, String> {
    let mut plain = event.placed(&|text| Some(texts.text(text).into_owned())).expect("nothing but texts");
    let count = |to: &mut Option<CountedUsage<String>>, of: &Option<CountedUsage<T>>| {
        if let (Some(to), Some(of)) = (to, of) {
            to.usage = texts.usage(of).expect("a usage");
        }
    };
    let count_in = |to: &mut Option<EventMessage<String>>, of: &Option<EventMessage<T>>| {
        if let (Some(to), Some(of)) = (to, of) {
            count(&mut to.usage, &of.usage);
        }
    };
    count(&mut plain.usage, &event.usage);
    count_in(&mut plain.message, &event.message);
    if let (Some(to), Some(of)) = (&mut plain.stream, &event.stream) {
        count(&mut to.usage, &of.usage);
        count_in(&mut to.message, &of.message);
    }
    plain
}

/// Whether `line` is read in full; `None`: it is not an event. Checks that both ways of reading agree.
fn is_new(forms: &mut FormCache, line: &[u8]) -> Option<bool> {
    let full = OutputEvent::read(line);
    match forms.read(line) {
        Ok(EventRead::Known(event, texts)) => {
            assert_eq!(plain(event, &texts), plain(&full.unwrap(), &InlineTexts));
            Some(false)
        }
        Ok(EventRead::Full(event)) => {
            assert_eq!(*event, full.unwrap());
            Some(true)
        }
        Err(_) => {
            assert!(full.is_err());
            None
        }
    }
}

const TEXT: &str = concat!(
    r#"{"type":"assistant","message":{"id":"msg_1","model":"Big-1""#,
    r#","content":[{"type":"text","text":"Hi!"}],"usage":{"input_tokens":3,"output_tokens":4}}"#,
    r#","session_id":"s-1","uuid":"1-2"}"#,
);

#[test]
fn an_event_of_a_known_form_has_its_own_texts_and_counts() {
    let mut forms = FormCache::new();
    assert_eq!(is_new(&mut forms, TEXT.as_bytes()), Some(true));
    let other = TEXT
        .replace("msg_1", "msg_98765")
        .replace("Hi!", "She said: \\\"}]\\\\")
        .replace("_tokens\":4", "_tokens\":4321")
        .replace("1-2", "22-222");
    assert_eq!(is_new(&mut forms, other.as_bytes()), Some(false));
    let Ok(EventRead::Known(event, texts)) = forms.read(other.as_bytes()) else {
        panic!("it is read in full")
    };
    let message = plain(event, &texts).message.unwrap();
    assert_eq!(message.id.as_deref(), Some("msg_98765"));
    assert_eq!(message.usage.unwrap().usage.output, Some(4321));
    // An id with an escape.
    let escaped = TEXT.replace("msg_1", "msg_\\u0031");
    assert_eq!(is_new(&mut forms, escaped.as_bytes()), Some(true));
}

#[test]
fn the_type_of_a_block_is_part_of_the_form() {
    let mut forms = FormCache::new();
    let odd = r#"{"type":"A","message":{"content":[{"type":"B","id":"C","name":"D"}]}}"#;
    let call = odd.replace("\"B\"", "\"tool_use\"");
    for line in [odd, &call, odd, &call] {
        is_new(&mut forms, line.as_bytes());
    }
}

#[test]
fn an_incomplete_event_and_one_with_trailing_text_are_not_events() {
    let mut forms = FormCache::new();
    is_new(&mut forms, TEXT.as_bytes());
    for end in 0..TEXT.len() {
        assert_eq!(is_new(&mut forms, &TEXT.as_bytes()[..end]), None, "{}", &TEXT[..end]);
    }
    for rest in ["x", "}", ",", "{}", "\""] {
        assert_eq!(is_new(&mut forms, format!("{TEXT}{rest}").as_bytes()), None, "{rest}");
    }
}

#[test]
fn a_stream_of_new_forms_uses_up_the_budget_for_learning() {
    let mut forms = FormCache::new();
    for i in 0..10_000 {
        let line = format!("{{\"type\":\"x\",\"key_{i}\":\"A\"}}");
        assert_eq!(is_new(&mut forms, line.as_bytes()), Some(true));
    }
    assert!(forms.known.len() <= KNOWN && forms.credit < MOST_CREDIT / 2, "{}", forms.credit);
    // A form that repeats is learned again.
    for n in 0..10_000 {
        is_new(&mut forms, TEXT.replace("1-2", &"s".repeat(1 + n % 16)).as_bytes());
    }
    assert_eq!(forms.credit, MOST_CREDIT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn reading_by_form_and_reading_in_full_agree(seed in any::<u64>()) {
        let mut chance = Chance(seed);
        let mut forms = FormCache::new();
        let mut shapes = Vec::new();
        for _ in 0..1 + chance.below(3) {
            let mut shape = String::new();
            object(&mut chance, 3, &mut shape);
            shapes.push(shape);
        }
        for _ in 0..40 {
            let shape = &shapes[chance.below(shapes.len())];
            let mut line = filled(&mut chance, shape).into_bytes();
            if chance.below(20) == 0 {
                let at = chance.below(line.len());
                line[at] = b"\"\\{}[],:1 \xff"[chance.below(11)];
            }
            is_new(&mut forms, &line);
        }
    }
}
