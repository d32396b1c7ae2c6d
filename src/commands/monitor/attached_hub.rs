//! The hub of a monitor: started when its ledger is in a fleet, and stopped when it has left.

use std::sync::Arc;

use tracing::warn;

#[cfg(feature = "fleet")]
use super::hub::{Hub, HubCommand};
use super::service::ServiceManager;
use crate::ledger::Location;
use crate::process::spawn::caller::Caller;
use crate::process::watch::Watch;
#[cfg(not(feature = "fleet"))]
use crate::{commands::fleet::is_in_fleet, error::Error, fleet::continue_there, sys, task::Signal};

/// The hub, if there is one. Without a fleet there is neither a thread nor a descriptor.
#[derive(Default)]
pub struct AttachedHub {
    #[cfg(feature = "fleet")]
    hub: Option<Hub>,
}

#[cfg(feature = "fleet")]
impl AttachedHub {
    pub fn begin(&self, _: &Location, _: &ServiceManager, _: &Caller) {}

    /// Starts or stops the hub as the setting of the ledger demands.
    pub fn follow(
        &mut self,
        at: &Location,
        setting: Option<&str>,
        service: &Arc<ServiceManager>,
        _: &Caller,
    ) {
        if self.hub.as_ref().map(|hub| hub.setting.as_str()) == setting {
            return;
        }
        self.end();
        let Some(setting) = setting else { return service.fleet_status("") };
        match Hub::start(at, setting, service) {
            Ok(hub) => self.hub = Some(hub),
            Err(e) => warn!("the ledger {} is not published: starting the hub: {e}", at.file.display()),
        }
    }

    /// Ends the hub, which publishes nothing more.
    pub fn end(&mut self) {
        use nix::poll::{PollFd, PollFlags, poll};
        /// In milliseconds. A hub that waits for the ledger longer than this ends later.
        const PATIENCE: u16 = 5000;
        if let Some(hub) = self.hub.take() {
            let _ = poll(&mut [PollFd::new(hub.stop(HubCommand::Quit), PollFlags::POLLIN)], PATIENCE);
        }
    }

    /// Lets the hub publish what is left, for as long as it may take or until another stop signal arrives.
    pub fn drain(&mut self, watch: &mut Watch, service: &ServiceManager) {
        use crate::process::watch::{WatchEvent, WatchInterest, WatchSource};
        use crate::stop;
        use std::time::Instant;

        let Some(hub) = self.hub.take() else { return };
        let until = Instant::now() + super::hub::DRAIN;
        let interest = [WatchInterest { source: WatchSource::Hub, fd: hub.stop(HubCommand::Drain) }];
        loop {
            service.alive();
            let turn = service.watchdog().map_or(until, |interval| until.min(Instant::now() + interval));
            match watch.next(&interest, Some(turn)) {
                Ok(WatchEvent::Ready(WatchSource::Hub)) | Err(_) => return,
                Ok(WatchEvent::Signal(received)) if stop::stop_of(&received).is_some() => return,
                Ok(WatchEvent::Deadline) if Instant::now() >= until => return,
                // What the watch of the ledger reported together with the stop signal is no concern any more.
                Ok(_) => {}
            }
        }
    }
}

#[cfg(not(feature = "fleet"))]
impl AttachedHub {
    /// Continues as the program that has a hub, if the ledger is in a fleet. Nothing is settled yet, so that
    /// the other program reports and delivers all of it.
    pub fn begin(&self, at: &Location, service: &ServiceManager, caller: &Caller) {
        if is_in_fleet(at) {
            let _ = continue_as_called(service, caller);
        }
    }

    pub fn follow(
        &mut self,
        at: &Location,
        setting: Option<&str>,
        service: &Arc<ServiceManager>,
        caller: &Caller,
    ) {
        if setting.is_some() {
            let e = continue_as_called(service, caller).in_line();
            warn!("the ledger {} is in a fleet, and its tasks are not published: {e}", at.file.display());
        }
    }

    pub fn end(&mut self) {}

    pub fn drain(&mut self, _: &mut Watch, _: &ServiceManager) {}
}

/// As [`continue_there`], with the signals and the socket as this process received them.
#[cfg(not(feature = "fleet"))]
fn continue_as_called(service: &ServiceManager, caller: &Caller) -> Error {
    service.pass_listener_on(true);
    sys::set_disposition(Signal::CHLD, caller.sigchld_ignored);
    let own = sys::set_mask(caller.mask);
    let why = continue_there();
    sys::set_mask(own);
    sys::set_disposition(Signal::CHLD, false);
    service.pass_listener_on(false);
    why
}
