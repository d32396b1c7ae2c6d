//! Reads the output of a declared agent while it runs, by the event rules of its declaration.

use super::schema::EventRule;
use super::tally::EventTally;
use super::wanted::WantedKeys;
use crate::agent::adapter::{ObservedOutput, OutputMode, OutputReader};
use crate::agent::output::lines::{LineSplitter, ObjectSplitter, objects};

#[derive(Debug)]
pub struct DeclaredReader {
    /// `None`: the output is one object, or one array of them.
    lines: Option<LineSplitter>,
    objects: ObjectSplitter,
    events: RuledEvents,
}

impl DeclaredReader {
    pub fn new(rules: &'static [EventRule], mode: OutputMode) -> DeclaredReader {
        DeclaredReader {
            lines: (mode != OutputMode::Json).then(LineSplitter::new),
            objects: ObjectSplitter::new(),
            events: RuledEvents { wanted: WantedKeys::of(rules), tally: EventTally::new(rules) },
        }
    }
}

impl OutputReader for DeclaredReader {
    fn feed(&mut self, bytes: &[u8]) {
        let events = &mut self.events;
        match &mut self.lines {
            Some(lines) => lines.push(bytes, |l| events.line(l)),
            None => self.objects.push(bytes, |o| events.line(o)),
        }
    }

    fn finish(&mut self) {
        let events = &mut self.events;
        match &mut self.lines {
            Some(lines) => lines.finish(|l| events.line(l)),
            None => self.objects.finish(|o| events.line(o)),
        }
    }

    fn observed(&self) -> &ObservedOutput {
        &self.events.tally.observed
    }
}

#[derive(Debug)]
struct RuledEvents {
    wanted: WantedKeys,
    tally: EventTally,
}

impl RuledEvents {
    fn line(&mut self, line: &[u8]) {
        let RuledEvents { wanted, tally } = self;
        match wanted.read(line) {
            Some(event) => tally.event(&event),
            // The line has other text besides the event.
            None => drop(objects(line, |o| wanted.read(o).iter().for_each(|event| tally.event(event)))),
        }
    }
}

#[cfg(test)]
mod tests;
