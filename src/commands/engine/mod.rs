//! The engine of recovery: it settles lost tasks, ends their processes, runs their hooks and reports them.
//! `recover` drives it until nothing is left to settle, `monitor` for as long as it runs.

mod core;
mod deliveries;
mod looking;
mod lookout;
mod post_mortem;
mod pulse;
mod report;
mod reports;
mod scope;
mod settling;
mod turn;

pub use self::core::{RecoveryEngine, watch};
pub use lookout::Lookout;
pub use post_mortem::{post_mortem, survey, uncommitted};
pub use pulse::Pulse;
pub use report::{
    DeliveredHook, RecoveryReport, ReportFormat, Reporter, SpoolReport, UnsettledTask, interrupted,
};
pub use scope::{RecoveryPolicy, SelectedTasks, running};
pub use settling::unverifiable;
