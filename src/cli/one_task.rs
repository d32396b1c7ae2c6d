//! The arguments of the commands that are about one task.

use clap::Args;

use super::run_again::RunAgainArgs;
use super::selection::Source;
use super::values::any_key;
use crate::commands::find::TaskChoice;
use crate::commands::logs;
use crate::commands::resume;
use crate::commands::show;
use crate::task::Key;

// No doc comment: it would become the help of the command.
#[derive(Debug, Args)]
pub struct OneTask {
    /// Task id, or a prefix of it [default: the newest task]
    id: Option<String>,
    /// Choose the newest task with this key
    #[arg(long, value_parser = any_key, conflicts_with = "id")]
    key: Option<Key>,
}

impl OneTask {
    pub fn choice(self) -> TaskChoice {
        match (self.id, self.key) {
            (Some(id), _) => TaskChoice::Id(id),
            (None, Some(key)) => TaskChoice::OfKey(key),
            (None, None) => TaskChoice::Newest,
        }
    }
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    which: OneTask,
    #[command(flatten)]
    source: Source,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl ShowArgs {
    pub fn request(self) -> show::ShowOptions {
        show::ShowOptions { which: self.which.choice(), json: self.json, here: self.source.here }
    }
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    which: OneTask,
    /// Print what is added, until the task has ended
    #[arg(short, long)]
    follow: bool,
    /// Print the lines of the transcript as they are
    #[arg(long)]
    raw: bool,
    /// Print the whole conversation
    ///
    /// Not only the part that was written while the task ran.
    #[arg(long)]
    all: bool,
}

impl LogsArgs {
    pub fn request(self) -> logs::LogsOptions {
        logs::LogsOptions { which: self.which.choice(), follow: self.follow, raw: self.raw, all: self.all }
    }
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    which: OneTask,
    /// Resume the conversation even if that is unsafe
    #[arg(long)]
    allow_unsafe_resume: bool,
    #[command(flatten)]
    again: RunAgainArgs,
}

impl ResumeArgs {
    pub fn request(self) -> resume::ResumeOptions {
        resume::ResumeOptions {
            which: self.which.choice(),
            allow_unsafe_resume: self.allow_unsafe_resume,
            when_busy: self.again.when_busy(),
            level: self.again.level(),
        }
    }
}
