//! How the supervisor waits: for messages, the admin interrupt, the removal, or the next tick.

#[cfg(not(miri))]
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::poll::PollTimeout;
#[cfg(not(miri))]
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
};

use super::{notice::ControllerState, supervisor::Supervisor};

impl Supervisor {
    /// Waits for a message, an admin interrupt or the removal. Whether it is the removal, which counts while `is_live`.
    #[cfg(not(miri))]
    fn wait(&self, timeout: PollTimeout, is_live: bool) -> bool {
        let mut descriptors = vec![PollFd::new(self.event.as_fd(), PollFlags::POLLIN)];
        if let Some(event) = &self.admin_event {
            descriptors.push(PollFd::new(event.as_fd(), PollFlags::POLLIN));
        }
        let removal = self.device.transport.removal().filter(|_| is_live);
        let has_removal = removal.is_some();
        descriptors.extend(removal.map(|removal| PollFd::new(removal, PollFlags::POLLIN)));
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("poll on our own descriptors: {error}"),
        }
        let last = descriptors.last().and_then(PollFd::any);
        has_removal && last == Some(true)
    }

    /// Miri has no `poll`: a nap in its place.
    #[cfg(miri)]
    fn wait(&self, _timeout: PollTimeout, _is_live: bool) -> bool {
        std::thread::sleep(Duration::from_millis(1));
        false
    }

    pub(crate) fn sleep(&mut self, until_tick: Duration) {
        const ADMIN_PAUSE: Duration = Duration::from_millis(2);
        let is_live = self.watch.state() == ControllerState::Live;
        let wait =
            if self.device.admin.is_waiting() { until_tick.min(ADMIN_PAUSE) } else { until_tick };
        let milliseconds = wait.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        let is_removed = self.wait(timeout, is_live);
        let _ = self.event.read();
        if let Some(event) = &self.admin_event {
            let _ = event.read();
        }
        if is_removed {
            self.on_removal();
        }
    }
}
