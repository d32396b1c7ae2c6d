//! Cuts a stream of bytes into what an adapter reads: lines, or JSON objects however they are laid out.
//! Neither cares where a push ends, and neither holds more than one line or object.

use memchr::{memchr, memchr_iter, memchr2, memchr3};

/// The longest line or object that is read, in bytes. Lines of 1 MB are normal.
const LIMIT: usize = 16 << 20;
/// What a buffer may keep for the next line, in bytes.
const KEEP: usize = 256 << 10;

/// What has come of a line or an object that is not whole yet.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    /// It has grown beyond the limit: nothing of it is kept, nor delivered.
    too_long: bool,
    limit: usize,
}

impl Held {
    fn new(limit: usize) -> Held {
        Held { bytes: Vec::new(), too_long: false, limit }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.too_long
    }

    fn add(&mut self, part: &[u8]) {
        if self.too_long || part.len() > self.limit - self.bytes.len() {
            self.too_long = true;
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(part);
        }
    }

    /// Delivers what is held with `last` at its end, and holds nothing afterwards.
    fn deliver(&mut self, last: &[u8], to: &mut impl FnMut(&[u8])) {
        if self.is_empty() {
            if last.len() <= self.limit {
                to(last);
            }
            return;
        }
        self.add(last);
        if !self.too_long {
            to(&self.bytes);
        }
        self.too_long = false;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
    }
}

/// Cuts bytes into lines. A line over 16 MiB is skipped and the next one read.
#[derive(Debug)]
pub struct LineSplitter {
    held: Held,
}

impl LineSplitter {
    pub fn new() -> LineSplitter {
        LineSplitter::limited(LIMIT)
    }

    /// One that skips lines of more than `limit` bytes.
    pub fn limited(limit: usize) -> LineSplitter {
        LineSplitter { held: Held::new(limit) }
    }

    /// Calls `line` for each line that ends in `bytes`, without its newline. A line that lies wholly in
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

/// Cuts bytes into the outermost JSON objects: one on a line, one over many lines, or the elements of an
/// array, which need not fit into memory together. Whatever lies between them is passed over.
#[derive(Debug)]
pub struct ObjectSplitter {
    held: Held,
    depth: u64,
    in_string: bool,
    escaped: bool,
}

impl ObjectSplitter {
    pub fn new() -> ObjectSplitter {
        ObjectSplitter { held: Held::new(LIMIT), depth: 0, in_string: false, escaped: false }
    }

    /// Calls `object` for each outermost object that ends in `bytes`.
    pub fn push(&mut self, bytes: &[u8], mut object: impl FnMut(&[u8])) {
        let mut start = 0;
        let mut at = 0;
        while let Some(i) = self.next_mark(bytes, at) {
            at = i + 1;
            match bytes[i] {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' => {
                    if self.depth == 0 {
                        start = i;
                    }
                    self.depth += 1;
                }
                b'}' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.held.deliver(&bytes[start..at], &mut object);
                    }
                }
                _ => {}
            }
        }
        if self.depth > 0 {
            self.held.add(&bytes[start..]);
        }
    }

    /// The next byte that means something where we are.
    fn next_mark(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let rest = &bytes[from.min(bytes.len())..];
        let found = if self.escaped {
            (!rest.is_empty()).then_some(0)
        } else if self.in_string {
            memchr2(b'"', b'\\', rest)
        } else if self.depth == 0 {
            memchr(b'{', rest)
        } else {
            memchr3(b'"', b'{', b'}', rest)
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
        out
    }

    /// Cuts `bytes` at each of `at`, taken modulo what is left.
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
    fn a_line_over_the_limit_is_skipped_and_the_next_is_read() {
        assert_eq!(lines(&[b"ab", b"cde", b"f\nok\n"], 4), [b"ok"]);
        assert_eq!(lines(&[b"abcdef\nok"], 4), [b"ok"]);
        assert_eq!(lines(&[b"abcd\n"], 4), [b"abcd"]);
        assert!(lines(&[b"abc", b"def"], 4).is_empty());
    }

    #[test]
    fn a_long_line_leaves_no_large_buffer() {
        let mut splitter = LineSplitter::new();
        splitter.push(&vec![b'x'; 4 << 20], |_| ());
        splitter.push(b"\n", |l| assert_eq!(l.len(), 4 << 20));
        assert!(splitter.held.bytes.capacity() <= KEEP);
    }

    #[test]
    fn objects_are_found_however_they_are_laid_out() {
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
    fn braces_that_never_open_are_passed_over() {
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
            plain.retain(|l| l.len() <= limit);
            prop_assert_eq!(lines(&cut(&bytes, &at), limit), plain);
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
