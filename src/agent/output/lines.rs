//! Splits a stream of bytes into lines or JSON objects, and finds objects in other text. Chunks may end
//! anywhere. At most one line or object is buffered; one over 16 MiB is abridged.

use memchr::{memchr, memchr_iter, memchr3, memmem};

use super::json::JsonCursor;

/// The longest line or object that is buffered in full, in bytes. Lines of 1 MB are normal.
const LIMIT: usize = 16 << 20;
/// The capacity that a buffer keeps for the next line, in bytes.
const KEEP: usize = 256 << 10;
/// The most lines after an unfinished object that are tried as the beginning of another one.
const TRIES: usize = 64;

/// Calls `object` for each outermost JSON object in `text`, with any text before, between and after them. A
/// brace that does not begin an object is text; an incomplete object is ignored. Returns the end of the
/// last object.
pub fn objects(text: &[u8], mut object: impl FnMut(&[u8])) -> usize {
    let (mut at, mut end) = (0, 0);
    while let Some(i) = memchr(b'{', &text[at..]) {
        let start = at + i;
        let mut cursor = JsonCursor::new(&text[start..]);
        let is_object = cursor.object(|c, _| c.skip()).is_ok();
        at = start + cursor.place().max(1);
        if is_object {
            end = at;
            object(&text[start..at]);
        }
    }
    end
}

/// The beginning of a line or an object that is not complete yet.
#[derive(Debug)]
struct PartialText {
    bytes: Vec<u8>,
    /// Replaces the bytes when they exceed the limit.
    abridged: Option<Abridged>,
    limit: usize,
}

impl PartialText {
    fn new(limit: usize) -> PartialText {
        PartialText { bytes: Vec::new(), abridged: None, limit }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.abridged.is_none()
    }

    fn add(&mut self, part: &[u8]) {
        if let Some(abridged) = &mut self.abridged {
            abridged.add(part);
        } else if part.len() > self.limit - self.bytes.len() {
            let mut abridged = Abridged::new(self.limit);
            abridged.add(&std::mem::take(&mut self.bytes));
            abridged.add(part);
            self.abridged = Some(abridged);
        } else {
            self.bytes.extend_from_slice(part);
        }
    }

    /// Delivers the buffered bytes followed by `last`, and empties the buffer.
    fn deliver(&mut self, last: &[u8], to: &mut impl FnMut(&[u8])) {
        if self.is_empty() && last.len() <= self.limit {
            return to(last);
        }
        self.add(last);
        match self.abridged.take() {
            Some(abridged) if abridged.out.is_empty() => {}
            Some(abridged) => to(&abridged.out),
            None => to(&self.bytes),
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.abridged = None;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
    }
}

/// The objects of a text that is too long to buffer: without the text around them, without the end of long
/// strings and, if that is not enough, without the member that is too long.
#[derive(Debug)]
struct Abridged {
    out: Vec<u8>,
    limit: usize,
    depth: u64,
    string: StringPart,
    /// Where in `out` the outermost object begins, and the array or object that is a member of it.
    object: usize,
    member: usize,
    /// Everything is left out until the depth is this.
    skips_to: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StringPart {
    None,
    /// In a string, after this many bytes.
    Text(usize),
    /// In a string, after this many bytes and a backslash.
    Escape(usize),
}

impl Abridged {
    fn new(limit: usize) -> Abridged {
        let string = StringPart::None;
        Abridged { out: Vec::new(), limit, depth: 0, string, object: 0, member: 0, skips_to: None }
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.byte(*byte);
        }
    }

    fn byte(&mut self, byte: u8) {
        let most = self.limit / 256;
        match (self.string, byte) {
            (StringPart::Text(_), b'"') => {
                self.string = StringPart::None;
                self.keep(byte);
            }
            (StringPart::Text(n), _) => {
                self.string = if byte == b'\\' { StringPart::Escape(n) } else { StringPart::Text(n + 1) };
                self.keep_if(n < most, byte);
            }
            (StringPart::Escape(n), _) => {
                self.string = StringPart::Text(n + 2);
                self.keep_if(n < most, byte);
            }
            (StringPart::None, b'{') if self.depth == 0 => self.open(byte),
            (StringPart::None, _) if self.depth == 0 => {}
            (StringPart::None, b'"') => {
                self.string = StringPart::Text(0);
                self.keep(byte);
            }
            (StringPart::None, b'{' | b'[') => self.open(byte),
            (StringPart::None, b'}' | b']') => {
                self.depth -= 1;
                self.keep(byte);
                self.skips_to = self.skips_to.filter(|depth| *depth != self.depth);
            }
            (StringPart::None, _) => self.keep(byte),
        }
    }

    fn open(&mut self, byte: u8) {
        match self.depth {
            0 => self.object = self.out.len(),
            1 => self.member = self.out.len(),
            _ => {}
        }
        self.depth += 1;
        self.keep(byte);
    }

    fn keep(&mut self, byte: u8) {
        self.keep_if(true, byte);
    }

    fn keep_if(&mut self, kept: bool, byte: u8) {
        if !kept || self.skips_to.is_some() {
            return;
        }
        if self.out.len() < self.limit {
            self.out.push(byte);
        } else if self.depth > 1 && self.member + 4 < self.limit {
            self.out.truncate(self.member);
            self.out.extend_from_slice(b"null");
            self.skips_to = Some(1);
        } else {
            // No single member makes it too long: the whole object is left out.
            self.out.truncate(self.object);
            self.skips_to = Some(0).filter(|_| self.depth > 0);
        }
    }
}

/// Splits bytes into lines. Of a line over 16 MiB it delivers the objects, abridged.
#[derive(Debug)]
pub struct LineSplitter {
    held: PartialText,
}

impl LineSplitter {
    pub fn new() -> LineSplitter {
        LineSplitter::limited(LIMIT)
    }

    /// One that abridges lines of more than `limit` bytes.
    pub fn limited(limit: usize) -> LineSplitter {
        LineSplitter { held: PartialText::new(limit) }
    }

    /// Calls `line` for each line that ends in `bytes`, without its newline. A line that is entirely in
    /// `bytes` is not copied.
    pub fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            self.held.deliver(&bytes[start..end], &mut line);
            start = end + 1;
        }
        if start < bytes.len() {
            self.held.add(&bytes[start..]);
        }
    }

    /// Delivers a last line that has no newline.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.held.is_empty() {
            self.held.deliver(&[], &mut line);
        }
    }
}

/// Splits bytes into the outermost JSON objects: one per line, one over many lines, or the elements of an
/// array, which is not buffered as a whole. Text between them is skipped, as is a brace that does not begin
/// an object.
#[derive(Debug)]
pub struct ObjectSplitter {
    held: PartialText,
    depth: u64,
    place: Within,
}

/// The position at the end of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Between objects.
    Outside,
    /// After a brace that may begin an object: a key or the end must follow.
    Opened,
    Inside,
    Text,
    /// In a string, after a backslash.
    Escape,
}

impl ObjectSplitter {
    pub fn new() -> ObjectSplitter {
        ObjectSplitter { held: PartialText::new(LIMIT), depth: 0, place: Within::Outside }
    }

    /// Calls `object` for each outermost object that ends in `bytes`.
    pub fn push(&mut self, bytes: &[u8], mut object: impl FnMut(&[u8])) {
        let mut start = 0;
        let mut at = 0;
        while let Some(i) = self.next_mark(bytes, at) {
            at = i + 1;
            self.place = match (self.place, bytes[i]) {
                (Within::Outside, _) => {
                    start = i;
                    self.depth = 1;
                    Within::Opened
                }
                (Within::Inside, b'{') => {
                    self.depth += 1;
                    Within::Opened
                }
                (Within::Opened | Within::Inside, b'}') => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.held.deliver(&bytes[start..at], &mut object);
                    }
                    if self.depth == 0 { Within::Outside } else { Within::Inside }
                }
                (Within::Opened | Within::Inside, b'"') | (Within::Escape, _) => Within::Text,
                (Within::Text, b'"') => Within::Inside,
                (Within::Text, b'\\') => Within::Escape,
                // A string cannot span lines, and no other byte can follow a brace: this was not an object.
                (Within::Text | Within::Opened | Within::Inside, _) => {
                    self.held.clear();
                    at = i;
                    Within::Outside
                }
            };
        }
        if self.place != Within::Outside {
            self.held.add(&bytes[start..]);
        }
    }

    /// Calls `object` for each object that begins a line after an unfinished object.
    pub fn finish(&mut self, mut object: impl FnMut(&[u8])) {
        self.place = Within::Outside;
        let mut rest = &self.held.bytes[..];
        for _ in 0..TRIES {
            let Some(at) = memmem::find(rest, b"\n{") else { break };
            rest = &rest[at + 1..];
            rest = &rest[objects(rest, &mut object)..];
        }
        self.held.clear();
    }

    /// The index of the next byte that changes the state.
    fn next_mark(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let rest = &bytes[from..];
        let found = match self.place {
            Within::Outside => memchr(b'{', rest),
            Within::Opened => rest.iter().position(|b| !b.is_ascii_whitespace()),
            Within::Inside => memchr3(b'"', b'{', b'}', rest),
            Within::Text => memchr3(b'"', b'\\', b'\n', rest),
            Within::Escape => (!rest.is_empty()).then_some(0),
        };
        found.map(|i| from + i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]], limit: usize) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut splitter = LineSplitter::limited(limit);
        for chunk in chunks {
            splitter.push(chunk, |l| out.push(l.to_vec()));
        }
        splitter.finish(|l| out.push(l.to_vec()));
        out
    }

    fn objects(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut splitter = ObjectSplitter::new();
        for chunk in chunks {
            splitter.push(chunk, |o| out.push(o.to_vec()));
        }
        splitter.finish(|o| out.push(o.to_vec()));
        out
    }

    /// Splits `bytes` at each of `at`, modulo the remaining length.
    fn cut<'a>(mut bytes: &'a [u8], at: &[usize]) -> Vec<&'a [u8]> {
        let mut chunks = Vec::new();
        for n in at {
            let (head, tail) = bytes.split_at(n % (bytes.len() + 1));
            chunks.push(head);
            bytes = tail;
        }
        chunks.push(bytes);
        chunks
    }

    #[test]
    fn a_whole_line_is_not_copied() {
        let bytes = b"one\ntwo\n";
        let mut at = Vec::new();
        LineSplitter::new().push(bytes, |l| at.push(l.as_ptr()));
        assert_eq!(at, [bytes.as_ptr(), bytes[4..].as_ptr()]);
    }

    #[test]
    fn a_line_over_the_limit_without_an_object_is_skipped_and_the_next_is_read() {
        assert_eq!(lines(&[b"ab", b"cde", b"f\nok\n"], 4), [b"ok"]);
        assert_eq!(lines(&[b"abcdef\nok"], 4), [b"ok"]);
        assert_eq!(lines(&[b"abcd\n"], 4), [b"abcd"]);
        assert!(lines(&[b"abc", b"def"], 4).is_empty());
    }

    #[test]
    fn an_object_over_the_limit_is_abridged_and_stays_json() {
        let long = "x\\\"".repeat(2000);
        for (member, kept) in [
            (format!("\"{long}\""), "\"x"),
            (format!("[{}1]", "1,".repeat(4000)), "null"),
            (format!("{{\"b\":[{}[2,\"}}\"]]}}", "[3],".repeat(2000)), "null"),
        ] {
            let line = format!("5\" {{\"a\":{member},\"type\":\"result\",\"c\":[1,{{\"d\":2}}]}} \x1b[K");
            let found = lines(&[line.as_bytes(), b"\nok\n"], 4096);
            let text = String::from_utf8(found[0].clone()).unwrap();
            assert!(text.len() <= 4096 && text.starts_with(&format!("{{\"a\":{kept}")), "{text}");
            assert!(text.ends_with(",\"type\":\"result\",\"c\":[1,{\"d\":2}]}"), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
            assert_eq!(found[1..], [b"ok"]);
        }
    }

    #[test]
    fn outermost_objects_are_found_in_other_text() {
        let found = |text: &str| {
            let mut out = Vec::new();
            super::objects(text.as_bytes(), |o| out.push(String::from_utf8(o.to_vec()).unwrap()));
            out
        };
        let o = r#"{"type":"x","y":{"z":[{}]}}"#;
        for (before, after) in [
            ("", ""),
            ("\x1b[1m", "\x1b[0m\r"),
            ("\0\0", "\0"),
            ("note: { oops ", " } {"),
            ("{a,b} {1} {{ ", ""),
            (r#"{"cut" "#, ""),
            (r#"{"a":1,"#, ""),
        ] {
            assert_eq!(found(&format!("{before}{o}{after}")), [o], "{before:?} {after:?}");
        }
        assert_eq!(found(&format!("{o}{o} {o}")), [o, o, o]);
        for cut in [r#"{"a":{"type":"x"}"#, r#"{"a":[{"type":"x"},"#, r#"{"a":"{\"type\":\"x\"}"#] {
            assert!(found(cut).is_empty(), "{cut}");
        }
    }

    #[test]
    fn objects_after_an_unfinished_one_are_found() {
        let found = |text: &str| {
            let mut out = Vec::new();
            let mut splitter = ObjectSplitter::new();
            text.as_bytes().chunks(3).for_each(|c| splitter.push(c, |o| out.push(o.to_vec())));
            splitter.finish(|o| out.push(o.to_vec()));
            out
        };
        for before in ["{ oops\n", "{\n", "{\"a\n", "{\"a\":\n", "{\"a\": [\n{\"b\":\n", "{{{\"a\":1,\n"] {
            assert_eq!(found(&format!("{before}{{\"type\":\"x\"}}\n")), [br#"{"type":"x"}"#], "{before:?}");
        }
        assert!(found("{\"a\":\n  {\"type\":\"x\"},\n").is_empty(), "an incomplete object is ignored");
    }

    #[test]
    fn a_long_line_leaves_no_large_buffer() {
        let mut splitter = LineSplitter::new();
        splitter.push(&vec![b'x'; 4 << 20], |_| ());
        splitter.push(b"\n", |l| assert_eq!(l.len(), 4 << 20));
        assert!(splitter.held.bytes.capacity() <= KEEP);
    }

    #[test]
    fn objects_are_found_in_any_layout() {
        let whole = br#"noise [ {"a": {"b": "}\"{"}}, {"c":1}
          ] {
            "d": "\\"
        }"#;
        let found = objects(&[whole]);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], br#"{"a": {"b": "}\"{"}}"#);
        assert_eq!(found[1], br#"{"c":1}"#);
    }

    #[test]
    fn closing_braces_between_objects_are_skipped() {
        assert_eq!(objects(&[b"}}}\"{\"a\":1}"]), [b"{\"a\":1}"]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..200),
            at in prop::collection::vec(any::<usize>(), 0..12),
            limit in 1usize..40,
        ) {
            prop_assert_eq!(lines(&cut(&bytes, &at), limit), lines(&[&bytes], limit));
            let mut plain: Vec<_> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            if plain.last().is_some_and(Vec::is_empty) {
                plain.pop();
            }
            plain.retain(|l| l.len() <= limit || l.contains(&b'{'));
            let found = lines(&cut(&bytes, &at), limit);
            prop_assert!(found.len() <= plain.len());
            plain.retain(|l| l.len() <= limit);
            prop_assert!(plain.iter().all(|l| found.contains(l)));
        }

        #[test]
        fn any_chunking_gives_the_same_objects(
            bytes in "[{}\"\\\\a\\[\\], \n]{0,80}",
            at in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let bytes = bytes.as_bytes();
            prop_assert_eq!(objects(&cut(bytes, &at)), objects(&[bytes]));
        }
    }
}
