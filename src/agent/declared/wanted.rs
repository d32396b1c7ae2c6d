//! The part of an event that rules read: the rest, which may be megabytes, is skipped.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::schema::{EventRule, ToolRule};
use super::value::JsonPath;
use crate::agent::output::json::{JsonCursor, JsonResult};

/// The most elements of an array, and the most keys of an object, to which rules are applied.
const MOST_ELEMENTS: usize = 10_000;

/// The keys that are read at one place of an event.
#[derive(Debug, Default)]
pub struct WantedKeys {
    keys: BTreeMap<String, WantedKeys>,
    /// What is read of each element of an array and of each value of an object.
    each: Option<Box<WantedKeys>>,
}

impl WantedKeys {
    pub fn of(rules: &[EventRule]) -> WantedKeys {
        let mut wanted = WantedKeys::default();
        for rule in rules {
            let conditions = rule.on.keys().chain(rule.unless.keys()).chain(&rule.has).chain(&rule.lacks);
            wanted.add(conditions);
            match &rule.each {
                None => wanted.add_values(rule),
                Some(each) => {
                    let element = wanted.at(&each.within).each.get_or_insert_default();
                    element.add(each.on.keys());
                    element.add_values(rule);
                }
            }
        }
        wanted.merge_each();
        wanted
    }

    /// Adds the values that a matching rule reads.
    fn add_values(&mut self, rule: &EventRule) {
        let (usage, cost) = (rule.usage.as_ref(), rule.cost.as_ref());
        let (opens, closes) = (rule.tool_opens.as_ref(), rule.tool_closes.as_ref());
        let paths = [
            rule.session.as_ref(),
            rule.model.as_ref(),
            rule.turns_so_far.as_ref(),
            rule.error.as_ref(),
            opens.map(|tool| &tool.id),
            opens.and_then(|tool| tool.name.as_ref()),
            closes.map(|tool| &tool.id),
            usage.and_then(|usage| usage.input.as_ref()),
            usage.and_then(|usage| usage.output.as_ref()),
            usage.and_then(|usage| usage.cache_read.as_ref()),
            usage.and_then(|usage| usage.cache_write.as_ref()),
            cost.map(|cost| &cost.usd),
        ];
        self.add(paths.into_iter().flatten());
        if let Some(ToolRule { name_of_key: Some(path), .. }) = opens {
            self.at(path).each.get_or_insert_default();
        }
    }

    fn add<'p>(&mut self, paths: impl Iterator<Item = &'p JsonPath>) {
        for path in paths {
            self.at(path);
        }
    }

    fn at(&mut self, path: &JsonPath) -> &mut WantedKeys {
        path.keys().iter().fold(self, |place, key| place.keys.entry(key.clone()).or_default())
    }

    /// Adds what is read of each value of an object to the keys that are also read by their names.
    fn merge_each(&mut self) {
        if let Some(each) = &mut self.each {
            each.merge_each();
            self.keys.values_mut().for_each(|named| named.merge(each));
        }
        self.keys.values_mut().for_each(WantedKeys::merge_each);
    }

    fn merge(&mut self, other: &WantedKeys) {
        for (key, wanted) in &other.keys {
            self.keys.entry(key.clone()).or_default().merge(wanted);
        }
        if let Some(each) = &other.each {
            self.each.get_or_insert_default().merge(each);
        }
    }

    /// Reads one whole event. `None`: the text is not an object, or not complete.
    pub fn read(&self, text: &[u8]) -> Option<Value> {
        let mut cursor = JsonCursor::new(text);
        let event = self.value(&mut cursor).ok().filter(Value::is_object)?;
        cursor.at_end().then_some(event)
    }

    fn value(&self, cursor: &mut JsonCursor<'_>) -> JsonResult<Value> {
        if cursor.begins_with(b'{')? {
            self.object(cursor)
        } else if cursor.begins_with(b'[')? {
            self.array(cursor)
        } else if cursor.begins_with(b'"')? {
            Ok(cursor.string()?.map_or(Value::Null, |text| Value::String(text.into_owned())))
        } else {
            // A word that is not a value counts as missing.
            Ok(serde_json::from_slice(cursor.raw()?).unwrap_or_default())
        }
    }

    fn object(&self, cursor: &mut JsonCursor<'_>) -> JsonResult<Value> {
        let mut object = Map::new();
        cursor.object(|cursor, key| {
            let key = String::from_utf8_lossy(key);
            let wanted = self.keys.get(&*key);
            let wanted = wanted.or(self.each.as_deref().filter(|_| object.len() < MOST_ELEMENTS));
            match wanted {
                Some(wanted) => drop(object.insert(key.into_owned(), wanted.value(cursor)?)),
                None => cursor.skip()?,
            }
            Ok(())
        })?;
        Ok(Value::Object(object))
    }

    fn array(&self, cursor: &mut JsonCursor<'_>) -> JsonResult<Value> {
        let mut array = Vec::new();
        cursor.array(|cursor| {
            match self.each.as_deref().filter(|_| array.len() < MOST_ELEMENTS) {
                Some(wanted) => array.push(wanted.value(cursor)?),
                None => cursor.skip()?,
            }
            Ok(())
        })?;
        Ok(Value::Array(array))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted(rules: &str) -> WantedKeys {
        #[derive(serde::Deserialize)]
        struct Rules {
            event: Vec<EventRule>,
        }
        WantedKeys::of(&toml::from_str::<Rules>(rules).expect("rules").event)
    }

    #[test]
    fn only_the_keys_of_the_rules_are_read() {
        let wanted = wanted(
            r#"
            [[event]]
            on = { type = ["a"] }
            has = ["b"]
            session = "c.d"
            tool_opens = { id = "i", name_of_key = "t" }
            [[event]]
            each = { in = "m", on = { k = [1] } }
            usage = { scope = "step", input = "n.in" }
            [[event]]
            model = "m.x.name"
            "#,
        );
        let event = json!({
            "type": "a", "other": [1, {"type": "b"}], "b": {"x": 1}, "c": {"d": "s", "e": 1}, "i": -7,
            "t": {"one": {"deep": 1}, "two": "2"},
            "m": {"x": {"k": 1, "name": "y", "n": {"in": 3}, "z": 1}, "w": {"name": 1}},
        });
        let read = json!({
            "type": "a", "b": {}, "c": {"d": "s"}, "i": -7,
            "t": {"one": {}, "two": "2"}, "m": {"x": {"k": 1, "name": "y", "n": {"in": 3}}, "w": {}},
        });
        assert_eq!(wanted.read(event.to_string().as_bytes()), Some(read));
        let elements = json!({"m": [{"k": 1, "z": 2}, 3, "4"]}).to_string();
        assert_eq!(wanted.read(elements.as_bytes()), Some(json!({"m": [{"k": 1}, 3, "4"]})));
    }

    #[test]
    fn only_a_whole_object_is_an_event() {
        let wanted = wanted("event = []");
        for text in ["", "[]", "[{}]", "1", "\"a\"", "null", "{", "{\"a\":1", "{} x", "hello"] {
            assert_eq!(wanted.read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(wanted.read(b" {\"a\":1} "), Some(json!({})));
    }

    #[test]
    fn the_last_of_two_equal_keys_counts_and_a_word_that_is_no_value_is_missing() {
        let wanted = wanted("event = [{ session = 'a', model = 'b', error = 'c' }]");
        let event = wanted.read(b"{\"a\":1,\"a\":2,\"b\":nan,\"c\":1e999}");
        assert_eq!(event, Some(json!({"a": 2, "b": null, "c": null})));
    }

    #[test]
    fn deep_nesting_takes_no_stack_and_long_arrays_little_memory() {
        let wanted = wanted("event = [{ each = { in = 'a' }, session = 's', model = 'b' }]");
        let many = 1 << 20;
        let text = format!(
            "{{\"x\":{}{},\"a\":[{}0],\"b\":{}{}}}",
            "[".repeat(many),
            "]".repeat(many),
            "0,".repeat(many),
            "{\"b\":".repeat(many),
            "1".to_owned() + &"}".repeat(many)
        );
        let event = wanted.read(text.as_bytes()).expect("an event");
        assert_eq!(event["a"].as_array().map(Vec::len), Some(MOST_ELEMENTS));
        assert_eq!(event.get("x"), None);
    }
}
