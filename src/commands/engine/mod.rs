//! The engine of recovery: it settles lost tasks, ends their processes, runs their hooks and reports them.
//! `recover` drives it until nothing is left to settle, `monitor` for as long as it runs.

mod changes;
mod deliveries;
mod interrupted_reports;
mod periodic_call;
mod post_mortem;
mod recovery_engine;
mod report;
mod scope;
mod settling;
mod supervisor_watch;
mod turn;

pub use periodic_call::PeriodicCall;
pub use post_mortem::{post_mortem, survey, uncommitted};
pub use recovery_engine::{RecoveryEngine, watch};
pub use report::{
    DeliveredHook, RecoveryReport, ReportFormat, Reporter, SpoolReport, UnsettledTask, interrupted,
};
pub use scope::{RecoveryPolicy, SelectedTasks, running};
pub use settling::unverifiable;
pub use supervisor_watch::SupervisorWatch;
