//! A pull reader for JSON that skips what is not needed, in one pass, without copying and without
//! recursion, as tool results may be megabytes long.
//!
//! It is lenient about types (a value of the wrong type counts as missing) and repeated keys (the last one
//! counts), and strict about the end: nothing is taken from an incomplete text.

use std::borrow::Cow;

use memchr::memchr2;

/// The text ended too early, or is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedJson;

pub type JsonResult<T> = Result<T, MalformedJson>;

/// A position in a JSON text.
#[derive(Debug)]
pub struct JsonCursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> JsonCursor<'a> {
    pub fn new(text: &'a [u8]) -> JsonCursor<'a> {
        JsonCursor { text, at: 0 }
    }

    /// The number of bytes read; after an error, of those before the malformed value.
    pub fn place(&self) -> usize {
        self.at
    }

    /// Whether only white space is left.
    pub fn at_end(&mut self) -> bool {
        self.blank();
        self.at == self.text.len()
    }

    /// Calls `member` for each key of the object here, with the cursor before the value, which `member`
    /// must read or skip. Skips a value of another type.
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, &[u8]) -> JsonResult<()>) -> JsonResult<()> {
        if self.peek()? != b'{' {
            return self.skip();
        }
        self.at += 1;
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.quoted()?;
            self.expect(b':')?;
            match key {
                Quoted { inner, plain: true } => member(self, inner)?,
                escaped => member(self, escaped.text().as_bytes())?,
            }
            if self.last_of(b'}')? {
                return Ok(());
            }
        }
    }

    /// Calls `element` before each element of the array here, which it must read or skip. Skips other values.
    pub fn array(&mut self, mut element: impl FnMut(&mut Self) -> JsonResult<()>) -> JsonResult<()> {
        if self.peek()? != b'[' {
            return self.skip();
        }
        self.at += 1;
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            element(self)?;
            if self.last_of(b']')? {
                return Ok(());
            }
        }
    }

    /// Reads the string here. Skips a value of another type.
    pub fn string(&mut self) -> JsonResult<Option<Cow<'a, str>>> {
        if self.peek()? != b'"' {
            self.skip()?;
            return Ok(None);
        }
        Ok(Some(self.quoted()?.text()))
    }

    /// Reads the number here. Skips a value of another type.
    pub fn number(&mut self) -> JsonResult<Option<f64>> {
        let word = self.raw()?;
        let digits = word.first().is_some_and(|b| b.is_ascii_digit() || *b == b'-');
        Ok(std::str::from_utf8(word)
            .ok()
            .filter(|_| digits)
            .and_then(|w| w.parse().ok())
            .filter(|n: &f64| n.is_finite()))
    }

    /// Reads the count here, from 0 to 9e15. Skips any other value.
    pub fn count(&mut self) -> JsonResult<Option<i64>> {
        let start = self.at;
        if let Some(n) = self.digits() {
            return Ok(Some(n));
        }
        self.at = start;
        let n = self.number()?;
        Ok(n.filter(|n| (0.0..9e15).contains(n)).map(|n| n as i64))
    }

    /// Reads up to 15 plain digits, the form of nearly all counts.
    fn digits(&mut self) -> Option<i64> {
        self.blank();
        let start = self.at;
        let mut n = 0;
        loop {
            match self.text.get(self.at)? {
                digit @ b'0'..=b'9' if self.at < start + 15 => n = n * 10 + i64::from(digit - b'0'),
                b',' | b'}' | b']' if self.at > start => return Some(n),
                _ => return None,
            }
            self.at += 1;
        }
    }

    /// Reads the boolean here. Skips a value of another type.
    pub fn boolean(&mut self) -> JsonResult<Option<bool>> {
        Ok(match self.raw()? {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        })
    }

    /// Skips the value here and returns its text.
    pub fn raw(&mut self) -> JsonResult<&'a [u8]> {
        self.read(JsonCursor::skip)
    }

    /// Reads the value here with `read` and returns its text.
    pub fn read(&mut self, read: impl FnOnce(&mut Self) -> JsonResult<()>) -> JsonResult<&'a [u8]> {
        self.peek()?;
        let start = self.at;
        read(self)?;
        Ok(&self.text[start..self.at])
    }

    /// Whether the value here begins with `byte`.
    pub fn begins_with(&mut self, byte: u8) -> JsonResult<bool> {
        Ok(self.peek()? == byte)
    }

    /// Skips the value here, of any type.
    pub fn skip(&mut self) -> JsonResult<()> {
        match self.peek()? {
            b'"' => self.quoted().map(drop),
            b'{' | b'[' => self.skip_nested(),
            b',' | b':' | b'}' | b']' => Err(MalformedJson),
            _ => {
                let rest = &self.text[self.at..];
                let end = |b: &u8| matches!(b, b',' | b'}' | b']') || b.is_ascii_whitespace();
                self.at += rest.iter().position(end).unwrap_or(rest.len());
                Ok(())
            }
        }
    }

    fn skip_nested(&mut self) -> JsonResult<()> {
        let mut depth = 0usize;
        loop {
            match self.text.get(self.at).ok_or(MalformedJson)? {
                b'"' => {
                    self.quoted()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Reads the string here without unescaping it.
    fn quoted(&mut self) -> JsonResult<Quoted<'a>> {
        if self.peek()? != b'"' {
            return Err(MalformedJson);
        }
        let start = self.at + 1;
        let mut at = start;
        let mut plain = true;
        loop {
            at = self.quote_or_escape(at)?;
            if self.text[at] == b'"' {
                self.at = at + 1;
                return Ok(Quoted { inner: &self.text[start..at], plain });
            }
            plain = false;
            at += 2;
        }
    }

    /// The next quote or backslash from `at` on. Keys and short values end within a few machine words,
    /// which are checked faster than a vector search starts.
    fn quote_or_escape(&self, mut at: usize) -> JsonResult<usize> {
        let rest = self.text.get(at..).ok_or(MalformedJson)?;
        for word in rest.chunks_exact(8).take(5) {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            let found = holds(word, b'"') | holds(word, b'\\');
            if found != 0 {
                return Ok(at + found.trailing_zeros() as usize / 8);
            }
            at += 8;
        }
        let rest = &self.text[at..];
        memchr2(b'"', b'\\', rest).map(|i| at + i).ok_or(MalformedJson)
    }

    /// Skips a comma, or the `close` that ends the object or array here; `true`: it was `close`.
    #[inline(always)]
    fn last_of(&mut self, close: u8) -> JsonResult<bool> {
        let next = self.peek()?;
        self.at += 1;
        match next {
            b',' => Ok(false),
            b if b == close => Ok(true),
            _ => Err(MalformedJson),
        }
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> JsonResult<()> {
        if self.peek()? != byte {
            return Err(MalformedJson);
        }
        self.at += 1;
        Ok(())
    }

    #[inline(always)]
    fn peek(&mut self) -> JsonResult<u8> {
        self.blank();
        self.text.get(self.at).copied().ok_or(MalformedJson)
    }

    #[inline(always)]
    fn blank(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }
}

/// Sets the high bit of each byte of `word` that equals `byte`. Bits above the lowest set one may be wrong.
fn holds(word: u64, byte: u8) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let same_is_zero = word ^ (ONES * u64::from(byte));
    same_is_zero.wrapping_sub(ONES) & !same_is_zero & (ONES << 7)
}

/// `String::from_utf8_lossy`, faster for valid UTF-8.
pub fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

/// The inside of a string, not unescaped.
#[derive(Debug)]
struct Quoted<'a> {
    inner: &'a [u8],
    /// It has no escapes.
    plain: bool,
}

impl<'a> Quoted<'a> {
    fn text(self) -> Cow<'a, str> {
        if self.plain {
            return lossy(self.inner);
        }
        let quoted = [b"\"", self.inner, b"\""].concat();
        match serde_json::from_slice(&quoted) {
            Ok(text) => Cow::Owned(text),
            Err(_) => Cow::Owned(String::from_utf8_lossy(self.inner).into_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(text: &str) -> JsonResult<Vec<(String, String)>> {
        let mut out = Vec::new();
        let mut cursor = JsonCursor::new(text.as_bytes());
        cursor.object(|c, key| {
            let value = c.raw()?;
            out.push((
                String::from_utf8_lossy(key).into_owned(),
                String::from_utf8_lossy(value).into_owned(),
            ));
            Ok(())
        })?;
        if cursor.at_end() { Ok(out) } else { Err(MalformedJson) }
    }

    #[test]
    fn members_are_read_whatever_their_values() {
        let found = keys(r#" { "a" : [1,{"}":"]"}] , "b":"x\"y", "c":-1.5e3,"d":null } "#).unwrap();
        let values: Vec<_> = found.iter().map(|(_, v)| v.as_str()).collect();
        assert_eq!(values, [r#"[1,{"}":"]"}]"#, r#""x\"y""#, "-1.5e3", "null"]);
    }

    #[test]
    fn incomplete_text_and_text_that_is_not_json_are_malformed() {
        for text in [
            "",
            "{",
            r#"{"a"#,
            r#"{"a""#,
            r#"{"a":"#,
            r#"{"a":1"#,
            r#"{"a":1,"#,
            r#"{"a":"\"#,
            r#"{"a":[}"#,
            r#"{"a":{"b":1}"#,
            r#"{"a" 1}"#,
            r#"{a:1}"#,
            r#"{"a":1} x"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a":,}"#,
        ] {
            assert_eq!(keys(text), Err(MalformedJson), "{text}");
        }
    }

    #[test]
    fn deep_nesting_takes_no_stack() {
        let deep = format!(r#"{{"a":{}{},"b":1}}"#, "[".repeat(1 << 20), "]".repeat(1 << 20));
        assert_eq!(keys(&deep).unwrap().len(), 2);
    }

    #[test]
    fn numbers_out_of_range_are_not_counts() {
        let n = |text: &str| JsonCursor::new(text.as_bytes()).count().unwrap();
        assert_eq!(n("12"), Some(12));
        assert_eq!(n("1e3"), Some(1000));
        for text in ["1e400", "-3", "99999999999999999999999", "\"7\"", "null", "nan", "inf", "[1]"] {
            assert_eq!(n(text), None, "{text}");
        }
    }

    #[test]
    fn strings_are_unescaped_and_invalid_escapes_stay() {
        let s = |text: &str| JsonCursor::new(text.as_bytes()).string().unwrap().unwrap().into_owned();
        assert_eq!(s(r#""a\n\u00e9\ud83d\ude00""#), "a\né😀");
        assert_eq!(s(r#""\ud83d""#), r"\ud83d");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut c = JsonCursor::new(&bytes);
            let _ = c.object(|c, _| c.array(|c| c.string().map(drop)));
            let _ = JsonCursor::new(&bytes).number();
            let _ = JsonCursor::new(&bytes).string();
        }

        #[test]
        fn text_similar_to_json_is_read_without_a_panic(text in "[\\[\\]{}\":,\\\\ 1a]{0,40}") {
            let _ = keys(&text);
        }
    }
}
