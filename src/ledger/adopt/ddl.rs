//! Edits the text of a CREATE TABLE statement so that the table takes bookend's rows. The rest of the text
//! stays as its author wrote it.

use std::ops::Range;

/// A CREATE TABLE statement from `sqlite_schema`, split into its parts.
#[derive(Debug)]
pub struct CreateTable<'a> {
    sql: &'a str,
    tokens: Vec<Token<'a>>,
    name: usize,
    items: Vec<Item>,
    /// The options after the closing parenthesis.
    options: Range<usize>,
}

/// A column or a constraint of the table: the tokens that it spans.
#[derive(Debug)]
struct Item {
    /// `None`: a constraint of the whole table.
    column: Option<String>,
    tokens: Range<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    at: usize,
}

impl Token<'_> {
    fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    fn end(&self) -> usize {
        self.at + self.text.len()
    }
}

/// The changes to a table.
pub struct TableChange<'a> {
    /// The name of the new table.
    pub name: &'a str,
    /// Columns to add, each with its text in a CREATE TABLE.
    pub add: &'a [String],
    /// Whether a column keeps its NOT NULL.
    pub keeps_not_null: &'a dyn Fn(&str) -> bool,
    /// A column whose CHECK lists the allowed words, and the words to add to it.
    pub words: Option<(&'a str, &'a [&'a str])>,
    /// The condition for a row of bookend: other CHECKs do not apply to it.
    pub exempt: &'a str,
    /// An integer primary key to replace, and the column that replaces it.
    pub integer_key: Option<(&'a str, &'a str)>,
}

struct Edit {
    at: Range<usize>,
    text: String,
}

impl<'a> CreateTable<'a> {
    /// Parses the statement. `None`: it is not a CREATE TABLE, or cannot be edited (a virtual table).
    pub fn parse(sql: &'a str) -> Option<CreateTable<'a>> {
        let tokens = tokens(sql)?;
        let head = tokens.first()?.is("CREATE") && tokens.get(1)?.is("TABLE");
        if !head || !tokens.get(3)?.is("(") {
            return None;
        }
        let close = closing(&tokens, 3)?;
        let mut items = Vec::new();
        let mut start = 4;
        let mut at = 4;
        while at <= close {
            if at == close || tokens[at].is(",") {
                items.push(Item::new(&tokens, start..at)?);
                start = at + 1;
            } else if tokens[at].is("(") {
                at = closing(&tokens, at)?;
            }
            at += 1;
        }
        let options = close + 1..tokens.len();
        Some(CreateTable { sql, tokens, name: 2, items, options })
    }

    /// Whether an option is set: `STRICT`, `WITHOUT ROWID`.
    pub fn has_option(&self, word: &str) -> bool {
        self.tokens[self.options.clone()].iter().any(|t| t.is(word))
    }

    /// The text of a column.
    pub fn column(&self, name: &str) -> Option<&'a str> {
        let item = self.items.iter().find(|i| i.is_column(name))?;
        let tokens = &self.tokens[item.tokens.clone()];
        Some(&self.sql[tokens.first()?.at..tokens.last()?.end()])
    }

    /// The same table without its options, e.g. not STRICT.
    pub fn without_options(&self) -> String {
        let end = self.tokens[self.options.start - 1].end();
        self.sql[..end].to_owned()
    }

    /// The statement that creates the changed table. It always has a rowid, by which bookend orders.
    pub fn changed(&self, change: &TableChange<'_>) -> String {
        let mut edits = vec![self.replace(self.name..self.name + 1, quoted(change.name))];
        let mut last_column = 0;
        for item in &self.items {
            if let Some(column) = &item.column {
                last_column = item.tokens.end - 1;
                if !(change.keeps_not_null)(column) {
                    edits.extend(self.not_null(item));
                }
                if change.integer_key.is_some_and(|(key, _)| item.is_column(key)) {
                    edits.extend(self.primary_key(item));
                }
            }
            edits.extend(self.checks(item, change));
        }
        let mut add: Vec<String> = change.add.to_vec();
        add.extend(change.integer_key.map(|(_, new)| new.to_owned()));
        if !add.is_empty() {
            let end = self.tokens[last_column].end();
            edits.push(Edit { at: end..end, text: format!(", {}", add.join(", ")) });
        }
        if self.has_option("ROWID") {
            let strict = if self.has_option("STRICT") { "STRICT" } else { "" };
            edits.push(self.replace(self.options.clone(), strict.to_owned()));
        }
        apply(self.sql, edits)
    }

    fn replace(&self, tokens: Range<usize>, text: String) -> Edit {
        Edit { at: self.tokens[tokens.start].at..self.tokens[tokens.end - 1].end(), text }
    }

    /// Removes `[CONSTRAINT name] NOT NULL [ON CONFLICT word]`.
    fn not_null(&self, item: &Item) -> Option<Edit> {
        let at = self.outside(item).find(|at| self.says(*at, &["NOT", "NULL"]))?;
        Some(self.replace(self.constraint_around(item, at..at + 2), String::new()))
    }

    /// Replaces `PRIMARY KEY [ASC|DESC] [ON CONFLICT word] [AUTOINCREMENT]` by UNIQUE.
    fn primary_key(&self, item: &Item) -> Option<Edit> {
        let at = self.outside(item).find(|at| self.says(*at, &["PRIMARY", "KEY"]))?;
        let mut end = at + 2;
        if self.says(end, &["ASC"]) || self.says(end, &["DESC"]) {
            end += 1;
        }
        let mut range = self.constraint_around(item, at..end);
        if self.says(range.end, &["AUTOINCREMENT"]) {
            range.end += 1;
        }
        Some(self.replace(range, "UNIQUE".to_owned()))
    }

    fn constraint_around(&self, item: &Item, mut range: Range<usize>) -> Range<usize> {
        if self.says(range.end, &["ON", "CONFLICT"]) {
            range.end += 3;
        }
        if range.start >= item.tokens.start + 2 && self.says(range.start - 2, &["CONSTRAINT"]) {
            range.start -= 2;
        }
        range
    }

    fn checks(&self, item: &Item, change: &TableChange<'_>) -> Vec<Edit> {
        let mut edits = Vec::new();
        for at in self.outside(item).filter(|at| self.says(*at, &["CHECK", "("])) {
            let Some(close) = closing(&self.tokens, at + 1) else { continue };
            let more = change.words.and_then(|(column, words)| self.word_list(at + 2..close, column, words));
            if let Some(edit) = more {
                edits.push(edit);
                continue;
            }
            let (start, end) = (self.tokens[at + 1].end(), self.tokens[close].at);
            edits.push(Edit { at: start..start, text: "(".to_owned() });
            edits.push(Edit { at: end..end, text: format!(") OR {}", change.exempt) });
        }
        edits
    }

    /// If an expression is exactly `column IN ('a', 'b')`, adds the missing words.
    fn word_list(&self, expr: Range<usize>, column: &str, words: &[&str]) -> Option<Edit> {
        let mut tokens = &self.tokens[expr];
        while let [first, inner @ .., last] = tokens
            && first.is("(")
            && last.is(")")
        {
            tokens = inner;
        }
        let [name, is_in, open, list @ .., close] = tokens else { return None };
        if unquoted(name.text) != column || !is_in.is("IN") || !open.is("(") || !close.is(")") {
            return None;
        }
        let is_word = |t: &Token<'_>| t.text.starts_with(['\'', '"']);
        let is_list = list.iter().enumerate().all(|(n, t)| if n % 2 == 0 { is_word(t) } else { t.is(",") });
        let last = list.last().filter(|_| is_list)?;
        let missing: String = words
            .iter()
            .filter(|w| !list.iter().any(|t| is_word(t) && unquoted(t.text) == **w))
            .map(|w| format!(", '{w}'"))
            .collect();
        Some(Edit { at: last.end()..last.end(), text: missing })
    }

    /// The tokens of an item outside parentheses.
    fn outside(&self, item: &Item) -> impl Iterator<Item = usize> {
        let mut depth = 0;
        item.tokens.clone().filter(move |at| {
            let token = &self.tokens[*at];
            depth -= i32::from(token.is(")"));
            let is_outside = depth == 0;
            depth += i32::from(token.is("("));
            is_outside
        })
    }

    fn says(&self, at: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, w)| self.tokens.get(at + n).is_some_and(|t| t.is(w)))
    }
}

fn apply(sql: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|e| e.at.start);
    let mut changed = sql.to_owned();
    for edit in edits.into_iter().rev() {
        changed.replace_range(edit.at, &edit.text);
    }
    changed
}

/// A trigger with `NEW.column` replaced.
pub fn replace_new(trigger: &str, column: &str, with: &str) -> String {
    let edits = tokens(trigger).unwrap_or_default();
    let edits = edits
        .windows(3)
        .filter(|t| t[0].is("NEW") && t[1].is(".") && unquoted(t[2].text).eq_ignore_ascii_case(column))
        .map(|t| Edit { at: t[0].at..t[2].end(), text: with.to_owned() })
        .collect();
    apply(trigger, edits)
}

impl Item {
    fn new(all: &[Token<'_>], tokens: Range<usize>) -> Option<Item> {
        let first = all[tokens.clone()].first()?;
        let of_table = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"];
        let column = (!of_table.iter().any(|w| first.is(w))).then(|| unquoted(first.text));
        Some(Item { column, tokens })
    }

    fn is_column(&self, name: &str) -> bool {
        self.column.as_ref().is_some_and(|c| c.eq_ignore_ascii_case(name))
    }
}

/// The parenthesis that closes the one at `open`.
fn closing(tokens: &[Token<'_>], open: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        depth += i32::from(token.is("("));
        depth -= i32::from(token.is(")"));
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Splits into words, quoted names, strings and single other characters, without comments and spaces.
fn tokens(sql: &str) -> Option<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let len = match first {
            _ if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest[2..].find("*/").map_or(rest.len(), |n| n + 4),
            '\'' | '"' | '`' => quote_len(rest, first)?,
            '[' => rest.find(']')? + 1,
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let is_comment = rest.starts_with("--") || rest.starts_with("/*");
        if !is_comment && !first.is_whitespace() {
            tokens.push(Token { text: &rest[..len], at });
        }
        at += len;
    }
    Some(tokens)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// The length of a quoted name or string; a quote in it is doubled.
fn quote_len(text: &str, quote: char) -> Option<usize> {
    let mut at = 1;
    loop {
        at += text[at..].find(quote)? + 1;
        if !text[at..].starts_with(quote) {
            return Some(at);
        }
        at += 1;
    }
}

fn unquoted(text: &str) -> String {
    let inner = || text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
    match text.chars().next() {
        Some('[') => inner().to_owned(),
        Some(q @ ('"' | '`' | '\'')) => inner().replace(&format!("{q}{q}"), &q.to_string()),
        _ => text.to_owned(),
    }
}

/// Quotes any name for SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(sql: &str) -> String {
        CreateTable::parse(sql).unwrap().changed(&TableChange {
            name: "new",
            add: &["key TEXT".to_owned()],
            keeps_not_null: &|c| c == "id",
            words: Some(("status", &["running", "success"])),
            exempt: "slot IS NOT NULL",
            integer_key: None,
        })
    }

    #[test]
    fn not_null_is_removed_and_the_rest_is_unchanged() {
        let sql = "CREATE TABLE task_history(id TEXT NOT NULL PRIMARY KEY,\n  -- NOT NULL\n  \
                   [at,x] TEXT DEFAULT 'NOT NULL' CONSTRAINT \"n\" NOT NULL ON CONFLICT FAIL COLLATE NOCASE)";
        assert_eq!(
            changed(sql),
            "CREATE TABLE \"new\"(id TEXT NOT NULL PRIMARY KEY,\n  -- NOT NULL\n  \
             [at,x] TEXT DEFAULT 'NOT NULL'  COLLATE NOCASE, key TEXT)"
        );
    }

    #[test]
    fn a_list_of_words_gets_the_missing_ones() {
        let sql =
            "CREATE TABLE t (id, \"status\" TEXT CHECK ((status IN ('success', 'it''s'))), PRIMARY KEY (id))";
        assert_eq!(
            changed(sql),
            "CREATE TABLE \"new\" (id, \"status\" TEXT CHECK ((status IN ('success', 'it''s', 'running'))), \
             key TEXT, PRIMARY KEY (id))"
        );
    }

    #[test]
    fn another_check_applies_only_to_the_rows_of_the_other_program() {
        let sql = "CREATE TABLE t (id, n CHECK (n > 0 -- (a comment\n), CHECK (id <> 'x' AND n IN (1)))";
        assert_eq!(
            changed(sql),
            "CREATE TABLE \"new\" (id, n CHECK ((n > 0 -- (a comment\n) OR slot IS NOT NULL), key TEXT, \
             CHECK ((id <> 'x' AND n IN (1)) OR slot IS NOT NULL))"
        );
    }

    #[test]
    fn an_integer_key_is_replaced() {
        let sql = "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, n)";
        let change = TableChange {
            name: "new",
            add: &[],
            keeps_not_null: &|_| true,
            words: None,
            exempt: "1",
            integer_key: Some(("id", "r INTEGER PRIMARY KEY AUTOINCREMENT")),
        };
        assert_eq!(
            CreateTable::parse(sql).unwrap().changed(&change),
            "CREATE TABLE \"new\" (id INTEGER UNIQUE, n, r INTEGER PRIMARY KEY AUTOINCREMENT)"
        );
    }

    #[test]
    fn a_trigger_reads_another_expression_instead() {
        let sql = "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT new . \"id\", NEW.idx, 'NEW.id'; END";
        assert_eq!(
            replace_new(sql, "id", "f(NEW.id)"),
            "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT f(NEW.id), NEW.idx, 'NEW.id'; END"
        );
    }

    #[test]
    fn options_and_columns_are_found_and_a_virtual_table_is_refused() {
        let table =
            CreateTable::parse("CREATE TABLE t(a TEXT DEFAULT (1, 2), b) STRICT, WITHOUT ROWID").unwrap();
        assert!(table.has_option("strict") && table.has_option("ROWID"));
        assert_eq!(table.column("A"), Some("a TEXT DEFAULT (1, 2)"));
        assert_eq!(table.without_options(), "CREATE TABLE t(a TEXT DEFAULT (1, 2), b)");
        assert!(CreateTable::parse("CREATE VIRTUAL TABLE t USING fts5(a)").is_none());
    }
}
