//! A gate that holds whoever wants to pass while it is closed.

use std::{
    sync::{Condvar, Mutex},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::Errno;

#[derive(Debug, Default)]
pub(crate) struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Closed until the answer is dropped.
    pub(crate) fn close(&self) -> Closed<'_> {
        *self.closed.lock().unwrap() = true;
        Closed(self)
    }

    /// Waits until it is open.
    pub(crate) fn pass(&self, cancel: &Cancel) -> Result<(), Errno> {
        let mut closed = self.closed.lock().unwrap();
        while *closed {
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            closed = self.opened.wait_timeout(closed, Duration::from_millis(5)).unwrap().0;
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Closed<'a>(&'a Gate);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        *self.0.closed.lock().unwrap() = false;
        self.0.opened.notify_all();
    }
}
