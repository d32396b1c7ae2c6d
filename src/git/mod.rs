//! Git: the HEAD of a worktree, and what a run left in it: branch, commits, files changed and uncommitted.
//!
//! HEAD and its branch are read from the files of the repository, in this process. git answers the rest, see
//! [`ask`]. What git does not answer is unknown, which is `null` in the artifact and never 0.

mod ask;
mod baseline;
mod changes;
mod survey;
mod worktree;

pub use ask::Git;
pub use baseline::Baseline;
pub use survey::{Survey, Uncommitted};
