//! The list of a whole fleet: the tasks of this host from its ledger, the others from the database, in one
//! order.

use std::collections::{HashSet, VecDeque};
use std::iter::Peekable;

use super::task_source::TaskSource;
use crate::error::Error;
use crate::fleet::FleetPlace;
use crate::task::{FleetTask, Status, TaskFilter};

/// The tasks that are returned as one page.
const PAGE: usize = 64;
/// The tasks that are read from the database at once. Each question costs a round trip and a plan.
const READ: usize = 256;

impl TaskSource {
    /// The selected tasks, running ones first, each newest first.
    ///
    /// # Errors
    /// When the ledger cannot be read, or the database if it is alone.
    pub fn tasks(&self, filter: &TaskFilter) -> Result<Vec<FleetTask>, Error> {
        let mut tasks = Vec::new();
        for page in self.pages(filter) {
            tasks.extend(page?);
        }
        Ok(tasks)
    }

    /// As [`TaskSource::tasks`], page by page.
    pub fn pages<'a>(
        &'a self,
        filter: &'a TaskFilter,
    ) -> Box<dyn Iterator<Item = Result<Vec<FleetTask>, Error>> + 'a> {
        if self.is_fleet() {
            return Box::new(merged_pages(self, filter));
        }
        let pages = self.ledger().into_iter().flat_map(|ledger| ledger.pages(filter));
        Box::new(pages.map(|page| Ok(page?.into_iter().map(|task| self.own(task)).collect())))
    }
}

/// The pages of the list. After an error there are no more.
fn merged_pages<'a>(
    source: &'a TaskSource,
    filter: &'a TaskFilter,
) -> impl Iterator<Item = Result<Vec<FleetTask>, Error>> + 'a {
    let mut seen = HashSet::new();
    let is_new = move |row: &Result<FleetTask, Error>| match row {
        // One that ended while the running ones were read would be listed twice.
        Ok(row) if row.task.status == Status::Running => seen.insert(row.task.id.clone()),
        Ok(row) => !seen.contains(&row.task.id),
        Err(_) => true,
    };
    let lists = ListPart::of(filter).into_iter().flat_map(move |part| part.tasks(source));
    let mut tasks = lists.filter(is_new).take(filter.limit.unwrap_or(usize::MAX)).peekable();
    let mut has_failed = false;
    std::iter::from_fn(move || {
        let is_over = has_failed || tasks.peek().is_none();
        let page: Result<Vec<_>, _> = (!is_over).then(|| tasks.by_ref().take(PAGE).collect())?;
        has_failed = page.is_err();
        Some(page)
    })
}

/// The running tasks of a list, or the ended ones.
struct ListPart {
    is_running: bool,
    own: TaskFilter,
    /// As `own`, and without the statuses that `is_running` implies.
    others: TaskFilter,
}

impl ListPart {
    fn of(filter: &TaskFilter) -> Vec<ListPart> {
        let of = |statuses: &[Status]| TaskFilter { statuses: statuses.to_vec(), ..filter.clone() };
        let mut parts = Vec::new();
        if filter.takes_running() {
            parts.push(ListPart { is_running: true, own: of(&[Status::Running]), others: of(&[]) });
        }
        let final_ones = Status::ALL.into_iter().filter(|status| status.is_terminal());
        match filter.ended() {
            None => {
                let own = of(&final_ones.collect::<Vec<_>>());
                parts.push(ListPart { is_running: false, own, others: of(&[]) });
            }
            Some(ended) if ended.is_empty() => {}
            Some(ended) => parts.push(ListPart { is_running: false, own: of(&ended), others: of(&ended) }),
        }
        parts
    }

    /// The tasks in one order, newest first.
    fn tasks(self, source: &TaskSource) -> impl Iterator<Item = Result<FleetTask, Error>> + '_ {
        let ListPart { is_running, own, others } = self;
        let own = source.ledger().into_iter().flat_map(move |ledger| ledger.pages_of(own.clone()));
        let own = own.flat_map(move |page| match page {
            Ok(page) => page.into_iter().map(|task| Ok(source.own(task))).collect(),
            Err(e) => vec![Err(Error::from(e))],
        });
        let left = others.limit.unwrap_or(usize::MAX);
        let others =
            OtherTasks { source, filter: others, is_running, left, after: None, read: VecDeque::new() };
        NewestFirst { own: own.peekable(), others: others.peekable() }
    }
}

/// Two lists by start time, as one.
struct NewestFirst<A: Iterator, B: Iterator> {
    own: Peekable<A>,
    others: Peekable<B>,
}

impl<A, B> Iterator for NewestFirst<A, B>
where
    A: Iterator<Item = Result<FleetTask, Error>>,
    B: Iterator<Item = Result<FleetTask, Error>>,
{
    type Item = Result<FleetTask, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_other_newer = match (self.own.peek(), self.others.peek()) {
            (Some(Ok(own)), Some(Ok(other))) => other.task.started_at > own.task.started_at,
            (Some(Err(_)), _) | (Some(_), None) => false,
            (None, _) | (_, Some(Err(_))) => true,
        };
        if is_other_newer { self.others.next() } else { self.own.next() }
    }
}

/// The tasks of the database that the ledger does not have.
struct OtherTasks<'a> {
    source: &'a TaskSource,
    filter: TaskFilter,
    is_running: bool,
    /// How many rows the limit still allows. Those of this host count: a row that is older than so many
    /// others is not listed.
    left: usize,
    after: Option<FleetPlace>,
    read: VecDeque<FleetTask>,
}

impl OtherTasks<'_> {
    /// Reads the next page. Returns whether there was one.
    fn read(&mut self) -> Result<bool, Error> {
        let most = self.left.min(READ);
        if most == 0 {
            return Ok(false);
        }
        let page = self
            .source
            .ask(|reader| reader.page(&self.filter, self.is_running, self.after.as_ref(), most))?;
        let Some(page) = page else { return Ok(false) };
        self.left = if page.next.is_some() { self.left - most } else { 0 };
        self.after = page.next;
        for row in page.tasks {
            if !self.source.has(&row.task.id)? {
                self.read.push_back(row);
            }
        }
        Ok(true)
    }
}

impl Iterator for OtherTasks<'_> {
    type Item = Result<FleetTask, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.read.is_empty() {
            match self.read() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => {
                    self.left = 0;
                    return Some(Err(e));
                }
            }
        }
        self.read.pop_front().map(Ok)
    }
}
